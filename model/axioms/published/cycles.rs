//! Tests that are named by their cycle, as the generator diy of herdtools7 names them:
//! `MP+dmb.st+addr` is message passing with a fence in the first thread and an address dependency in
//! the second.

use super::text;
use crate::program::{Access, Program};

/// The shape of each family: its threads, and its facts.
const FAMILIES: &[(&str, &str)] = &[
    ("MP", "Wx1 Wy1 | Ry1 Rx0"),
    ("SB", "Wx1 Ry0 | Wy1 Rx0"),
    ("LB", "Rx1 Wy1 | Ry1 Wx1"),
    ("S", "Wx2 Wy1 | Ry1 Wx1 ; x=2"),
    ("R", "Wx1 Wy1 | Wy2 Rx0 ; y=2"),
    ("2+2W", "Wx2 Wy1 | Wy2 Wx1 ; x=2 y=2"),
    ("WRC", "Wx1 | Rx1 Wy1 | Ry1 Rx0"),
    ("RWC", "Wx1 | Rx1 Ry0 | Wy1 Rx0"),
    ("ISA2", "Wx1 Wy1 | Ry1 Wz1 | Rz1 Rx0"),
    ("W+RWC", "Wx1 Wy1 | Ry1 Rz0 | Wz1 Rx0"),
    ("Z6.1", "Wx2 Wy1 | Wy2 Wz1 | Rz1 Wx1 ; x=2 y=2"),
    ("Z6.2", "Wx2 Wy1 | Ry1 Wz1 | Rz1 Wx1 ; x=2"),
    ("Z6.3", "Wx1 Wy1 | Wy2 Wz1 | Rz1 Rx0 ; y=2"),
    ("Z6.4", "Wx1 Wy1 | Wy2 Rz0 | Wz1 Rx0 ; y=2"),
    ("IRIW", "Wx1 | Rx1 Ry0 | Wy1 | Ry1 Rx0"),
];

/// What orders the two accesses of a thread. Two letters may follow, one for each access: `p`lain,
/// `a`cquire, `q` for acquire-PC, re`l`ease.
const ORDERS: &[&str] = &["po", "dmb.sy", "dmb.ld", "dmb.st", "addr", "data", "ctrlisb", "ctrl"];

/// Names of whole orders in the catalogue of herdtools7.
const ALIASES: &[(&str, &str)] = &[
    ("rel", "popl"),
    ("acq", "poap"),
    ("acqpc", "poqp"),
    ("rel-acq", "pola"),
    ("rel-acqpc", "polq"),
];

/// Edges of a chain, such as `addr-rfi-ctrl`, that stay at one word.
const AT_ONE_WORD: &[&str] = &["rfi", "fri", "wsi", "pos"];

/// Returns the test of this name, or `None` if the name has parts that are unknown here.
pub fn program(name: &str) -> Option<Program> {
    if let Some(edges) = name.strip_prefix("MP+dmb.sy+").filter(|edges| edges.contains('-')) {
        let threads = vec![vec!["Wx1", "dmb.sy", "Wy1"], chain(edges)?];
        return Some(text::program_of(name, &threads, Vec::new(), Access::Plain));
    }
    let family = |(family, _): &&(&str, &str)| {
        name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
    };
    let (family, shape) = FAMILIES.iter().filter(family).max_by_key(|(name, _)| name.len())?;
    let mut threads = text::threads(shape);
    let pairs = threads.iter().filter(|thread| thread.len() == 2).count();
    let parts: Vec<&str> = name[family.len()..].split('+').skip(1).collect();
    let orders: Vec<_> = match parts[..] {
        [] => vec![order("po")?; pairs],
        [all] if pairs > 1 => vec![order(all.strip_suffix('s')?)?; pairs],
        _ => parts.into_iter().map(order).collect::<Option<_>>()?,
    };
    if orders.len() != pairs {
        return None;
    }
    let two = threads.iter_mut().filter(|thread| thread.len() == 2);
    for (thread, (order, [first, second])) in two.zip(orders) {
        let is_load = |access: &str| access.starts_with('R');
        let depends = !(order.starts_with("po") || order.starts_with("dmb"));
        let fits = match order {
            "addr" | "ctrl" | "ctrlisb" => is_load(thread[0]),
            "data" => is_load(thread[0]) && !is_load(thread[1]),
            _ => true,
        };
        if !fits && depends {
            return None;
        }
        *thread = vec![annotated(thread[0], first)?, order, annotated(thread[1], second)?];
    }
    Some(text::program_of(name, &threads, text::facts(shape), Access::Plain))
}

/// Returns the second thread of message passing: from the load of `y` along the edges to the load of
/// `x`. Each edge that leaves a word leads to a word that no other thread has.
fn chain(edges: &str) -> Option<Vec<&'static str>> {
    let edges: Vec<&str> = edges.split('-').collect();
    let mut others = ["z", "a", "b", "c", "d"].iter();
    let (mut tokens, mut word, mut value) = (vec!["Ry1"], "y", 1);
    for (i, edge) in edges.iter().enumerate() {
        let stays = AT_ONE_WORD.contains(edge);
        let order = ORDERS[4..].iter().find(|order| *order == edge);
        tokens.push(if stays { "po" } else { order? });
        let next = edges.get(i + 1);
        if next.is_none() {
            tokens.push((!stays && *edge != "data").then_some("Rx0")?);
            break;
        }
        if !stays {
            (word, value) = (others.next()?, 0);
        }
        let is_store = matches!(*edge, "data" | "fri" | "wsi")
            || *edge != "rfi" && matches!(next, Some(&"rfi" | &"wsi"));
        value += u64::from(is_store);
        let kind = if is_store { "W" } else { "R" };
        tokens.push(format!("{kind}{word}{value}").leak());
    }
    Some(tokens)
}

/// Splits an order into its name and the annotations of both accesses.
fn order(part: &str) -> Option<(&'static str, [char; 2])> {
    let part = ALIASES.iter().find(|(alias, _)| *alias == part).map_or(part, |(_, order)| order);
    let order = ORDERS.iter().find(|order| part.starts_with(**order))?;
    let annotations = match part[order.len()..].chars().collect::<Vec<_>>()[..] {
        [] => ['p', 'p'],
        [first, second] => [first, second],
        _ => return None,
    };
    Some((order, annotations))
}

/// Returns the access with its annotation. Only the accesses of [`FAMILIES`] occur.
fn annotated(access: &'static str, annotation: char) -> Option<&'static str> {
    let suffix = match (annotation, &access[..1]) {
        ('p', _) => return Some(access),
        ('a', "R") => ".acq",
        ('q', "R") => ".pc",
        ('l', "W") => ".rel",
        _ => return None,
    };
    Some(format!("{access}{suffix}").leak())
}

//! 64 bytes there and back between two processes.

use super::quantiles;
use crate::clock::{Ticks, ticks};
use crate::content::{Check, Content};
use crate::measure::{Cell, Plan};
use crate::peer::{Peer, Setup, Waiting, recv, send};
use crate::peers::PEERS;
use crate::role::{Part, Role, Start};
use crate::with_peer;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::time::{Duration, Instant};

const LEN: usize = 64;
/// Round trips before the first that counts.
const WARM_UP: u64 = 200;
const BETWEEN_LOOKS: u64 = 16;

pub fn cells(_: &Plan) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (text, waiting) in [("polling", Waiting::Poll), ("sleeping", Waiting::Sleep)] {
        for peer in PEERS.iter().filter(|peer| peer.waits(waiting) && peer.name != "llmp-borrow") {
            let cell = Cell::new("ping-pong", text.into(), peer.name, move |run| {
                let setup = Setup { waiting, ..Setup::new(LEN) };
                let place = run.place("ball");
                let ping = run.role(Part::Ping, peer, &place, &setup, 0);
                let pong = run.role(Part::Pong, peer, &place, &setup, 1);
                let played = run.play_pair(peer, ping, pong)?;
                let played = played.iter().find(|played| played.part == Part::Ping);
                super::all_figures(played.context("nobody has measured")?)
            });
            cells.push(cell.len(LEN));
        }
    }
    cells
}

pub fn act(role: &Role, start: &Start) -> Result<()> {
    let len = role.setup.len;
    match role.part {
        Part::Ping => with_peer!(role.peer.as_str(), len, ping(role, start)),
        Part::Pong => with_peer!(role.peer.as_str(), len, pong(role, start)),
        part => bail!("{part:?} is no part of a ping-pong"),
    }
}

fn ping<P: Peer>(role: &Role, start: &Start) -> Result<()> {
    let waiting = role.setup.waiting;
    let mut content = Content::new(role.setup.len, 0, role.sabotage);
    let mut check = Check::new(role.setup.len, 1, true);
    let mut there = P::sender(&role.place.named("there"), &role.setup)?;
    let mut back = P::receiver(&role.place.named("back"), &role.setup)?;
    start.ready();
    let clock = Ticks::new();
    let mut times = Vec::with_capacity(1 << 20);
    let end = Instant::now() + Duration::from_secs_f64(role.seconds);
    let mut last = ticks();
    while !content.count().is_multiple_of(BETWEEN_LOOKS)
        || content.count() < 2 * WARM_UP
        || Instant::now() < end
    {
        if content.count().is_multiple_of(BETWEEN_LOOKS) {
            last = ticks();
        }
        send(&mut there, waiting, content.message())?;
        recv(&mut back, waiting, |message| check.look(message))??;
        let now = ticks();
        if content.count() > WARM_UP {
            times.push(now.wrapping_sub(last));
        }
        last = now;
    }
    send(&mut there, waiting, content.end())?;
    if !recv(&mut back, waiting, |message| check.look(message))?? {
        bail!("the last message did not come back as the last one");
    }
    let tick_ns = clock.tick_ns();
    let times = times.into_iter().map(|ticks| (ticks as f64 * tick_ns) as u64).collect();
    start.finished(role.part, json!(quantiles(times)));
    Ok(())
}

fn pong<P: Peer>(role: &Role, start: &Start) -> Result<()> {
    let waiting = role.setup.waiting;
    let mut check = Check::new(role.setup.len, 1, true);
    let mut there = P::receiver(&role.place.named("there"), &role.setup)?;
    let mut back = P::sender(&role.place.named("back"), &role.setup)?;
    start.ready();
    let mut ended = false;
    while !ended {
        ended = recv(&mut there, waiting, |message| {
            let ended = check.look(message)?;
            send(&mut back, waiting, message)?;
            anyhow::Ok(ended)
        })??;
    }
    start.finished(role.part, json!({}));
    Ok(())
}

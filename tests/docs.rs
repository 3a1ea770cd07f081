//! The documentation agrees with the code. Every promise is kept and checked somewhere, and every
//! memory ordering is in the table.

#[path = "../model/memory/mod.rs"]
mod doubles;

use doubles::Swap;
use llmp::core::order::{Kind, Site};
use std::collections::BTreeMap;
use std::path::Path;

fn text_of(folders: &[&str]) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.insert(path.display().to_string(), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The numbers of the promises, from the table in `docs/protocol.md`.
fn promises() -> Vec<u32> {
    let numbers = doc("protocol.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| **P")?.split_once("**")?.0.parse().ok())
        .collect::<Vec<u32>>();
    assert!(!numbers.is_empty());
    numbers
}

/// Returns whether `text` cites a promise: as `P7` or, in a test's name, as `p7_`.
fn cites(text: &str, promise: u32) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
    let starts = |before: &str| !before.ends_with(|c: char| c.is_alphanumeric());
    [format!("P{promise}"), format!("p{promise}_")].iter().any(|citation| {
        let mut found = text.match_indices(citation.as_str());
        found.any(|(i, _)| starts(&text[..i]) && ends(&text[i + citation.len()..]))
    })
}

#[test]
fn promises_are_numbered_without_gaps() {
    let numbers = promises();
    assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>());
}

#[test]
fn every_promise_is_cited_by_code_and_by_a_test_or_model() {
    let this = file!().rsplit('/').next().unwrap();
    let mut missing = Vec::new();
    for (kind, folders) in [("code", &["src"][..]), ("test or model", &["tests", "model", "fuzz"])]
    {
        let mut files = text_of(folders);
        files.retain(|path, _| !path.ends_with(this));
        for promise in promises() {
            if !files.values().any(|text| cites(text, promise)) {
                missing.push(format!("P{promise} by no {kind}"));
            }
        }
    }
    assert!(missing.is_empty(), "cited {}", missing.join(", "));
}

#[test]
fn no_promise_is_cited_that_does_not_exist() {
    let beyond = promises().len() as u32 + 1;
    for (path, text) in text_of(&["src", "tests", "model", "fuzz"]) {
        for promise in (beyond..beyond + 50).filter(|_| !path.ends_with("docs.rs")) {
            assert!(!cites(&text, promise), "{path} cites P{promise}");
        }
    }
}

#[test]
fn verification_names_the_checks_of_every_promise() {
    let text = doc("verification.md");
    for promise in promises() {
        assert!(text.contains(&format!("| P{promise} ")), "P{promise} has no row");
    }
}

#[test]
fn verification_has_no_figure_that_a_run_produces() {
    let text = doc("verification.md");
    assert!(text.contains("{{#include figures.md:totals}}"));
    let units =
        ["executions", "states", "schedules", "programs", "mutants", "writes", "steps", "verdicts"];
    let words: Vec<&str> = text.split_whitespace().collect();
    for pair in words.windows(2) {
        let is_number =
            pair[0].trim_start_matches('(').chars().all(|c| c.is_ascii_digit() || c == ',');
        let is_figure = is_number && units.iter().any(|unit| pair[1].starts_with(unit));
        assert!(!is_figure, "docs/figures.md is for: {}", pair.join(" "));
    }
}

#[test]
fn every_row_of_resources_cites_tests_that_exist() {
    let text = doc("threat-model.md");
    let table = text.split("## Resources").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 15, "{rows:?}");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 4, "{row}");
        let files: Vec<&str> = cells[3].split('`').skip(1).step_by(2).collect();
        assert!(!files.is_empty(), "no test: {row}");
        for file in files {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(text.contains("#[test]"), "{file} has no test: {row}");
        }
    }
}

#[test]
fn the_table_of_orderings_is_that_of_the_code() {
    let text = doc("orderings.md");
    for site in Site::ALL {
        let access = match site.access() {
            Kind::Load => "load",
            Kind::Store => "store",
            Kind::Fence => "fence",
        };
        let row = format!("| `{site:?}` | {access} | `{:?}` |", site.ordering());
        assert!(text.contains(&row), "no row that begins with {row}");
    }
}

#[test]
fn the_table_of_orders_of_steps_is_that_of_the_code() {
    let text = doc("orderings.md");
    for swap in Swap::ALL {
        let row = format!("| {swap} | {} |", swap.otherwise);
        assert!(text.contains(&row), "no row {row}");
    }
}

#[test]
fn atomics_are_used_behind_the_memory_trait_alone() {
    // These three are not shared memory: the step counter of a crash test, the closer of
    // descriptors, and the word that distinguishes a forked child from its parent.
    let own = ["core/failpoint.rs", "sys/closer.rs", "sys/fork.rs"];
    let shared = ["memory/", "order.rs", "memory.rs"];
    for (path, text) in text_of(&["src"]) {
        let inside = own.iter().chain(&shared).any(|part| path.contains(part));
        // A flag of its own process stops a broker's thread.
        let stop_flag = path.ends_with("src/broker/stop.rs") || path.contains("src/bin/");
        if !inside && !stop_flag {
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(!text.contains("sync::atomic"), "{path} uses atomics of its own");
        }
    }
}

#[test]
fn defaults_named_in_texts_are_those_of_the_code() {
    use llmp::Limits;
    let size = |bytes: usize| match bytes >= 1 << 20 {
        true => format!("{} MiB", bytes >> 20),
        false => format!("{} KiB", bytes >> 10),
    };
    let [by_ref, page, message, budget] = [
        llmp::core::broker::ZERO_COPY_THRESHOLD,
        Limits::DEFAULT_PAGE_LEN,
        Limits::DEFAULT_MAX_MESSAGE_LEN,
        Limits::DEFAULT_BUDGET,
    ]
    .map(size);
    let named = [
        ("README.md", format!("A\nmessage of {by_ref} or more need not be copied")),
        (
            "README.md",
            format!("A message has at most {message}, and a chain takes at most {budget}"),
        ),
        (
            "src/broker/builder.rs",
            format!("rounded up to a multiple of 4096. The default is {page}"),
        ),
        (
            "src/broker/builder.rs",
            format!("the longest payload in bytes. The default is {message}"),
        ),
        (
            "src/broker/builder.rs",
            format!("chain in bytes. The default is {budget}, or the need of two"),
        ),
        ("src/broker/builder.rs", format!("in between. The default is {by_ref}")),
    ];
    for (file, text) in named {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/");
        let content = std::fs::read_to_string(format!("{path}{file}")).unwrap();
        // Line breaks and the marks of comments are no part of a text.
        let plain =
            |text: &str| text.replace("///", " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(plain(&content).contains(&plain(&text)), "{file} does not say: {text}");
    }
}

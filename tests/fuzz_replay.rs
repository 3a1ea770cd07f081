//! The fuzzers' oracles without a fuzzer, for every seed and all former findings.
//!
//! `LLMP_WRITE_SEEDS=1 cargo test --test fuzz_replay` rewrites the seeds. With `LLMP_CORPUS=1` the
//! grown corpus in `fuzz/corpus` is replayed, too, to measure its coverage.

#[path = "../fuzz/src/lib.rs"]
mod oracle;

use llmp::core::chain::{ChainReader, ChainWriter, Event};
use llmp::core::control::Control;
use llmp::core::layout::{PAGE_HEADER, control_len, low};
use llmp::core::memory::{Memory, Region};
use llmp::core::order::Site;
use llmp::{Envelope, Limits};
use oracle::hostile::Hostile;
use oracle::regions::heap;
use oracle::seen::Seen;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// One oracle counts this process's descriptors, so only one test at a time may open any.
static ALONE: Mutex<()> = Mutex::new(());

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

#[test]
fn the_seeds_are_current() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let write = std::env::var_os("LLMP_WRITE_SEEDS").is_some();
    for (target, seeds) in oracle::seeds::all() {
        let directory = fuzz().join("seeds").join(target);
        if write {
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::create_dir_all(&directory).unwrap();
        }
        for (name, bytes) in &seeds {
            let path = directory.join(name);
            if write {
                std::fs::write(&path, bytes).unwrap();
            }
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(&found == bytes, "{} is old: LLMP_WRITE_SEEDS=1", path.display());
        }
        assert_eq!(files(&directory).len(), seeds.len(), "a seed without a maker, in {target}");
    }
}

/// Returns the files of a directory in order, or none if it does not exist.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_oracle_holds_and_reaches_every_case() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bus = oracle::handshake::Bus::new();
    let mut targets: Vec<(&str, Run)> = vec![
        ("page_bytes", Box::new(oracle::page_bytes::run)),
        ("page_mutate", Box::new(oracle::page_mutate::run)),
        ("control_region", Box::new(oracle::control_region::run)),
        ("handshake", Box::new(move |input| bus.run(input))),
        ("live_bus", Box::new(oracle::live_bus::run)),
        ("live_page", Box::new(oracle::live_page::run)),
        ("end_of_page", Box::new(oracle::end_of_page::run)),
    ];
    #[cfg(feature = "cli")]
    targets.push(("command_line", Box::new(oracle::command_line::run)));
    let mut seen = Seen::default();
    for (target, run) in &mut targets {
        let seeds = files(&fuzz().join("seeds").join(&target));
        assert!(!seeds.is_empty(), "{target} has no seed");
        let findings = files(&fuzz().join("regressions").join(&target));
        let grown = std::env::var_os("LLMP_CORPUS").map(|_| fuzz().join("corpus").join(&target));
        let grown = grown.map_or(Vec::new(), |directory| files(&directory));
        for path in seeds.into_iter().chain(findings).chain(grown) {
            // Shown if the test fails.
            println!("{}", path.display());
            let reached = run(&std::fs::read(path).unwrap());
            println!("    {:?}", reached.0);
            seen.0.extend(reached.0);
        }
    }
    let sometimes = SOMETIMES.iter();
    #[cfg(feature = "cli")]
    let sometimes = sometimes.chain(SOMETIMES_OF_THE_PROGRAM);
    let missing: Vec<_> = sometimes.filter(|what| !seen.0.contains(**what)).collect();
    assert!(missing.is_empty(), "no seed gets to {missing:?}, only to {seen:?}");
}

type Run = Box<dyn FnMut(&[u8]) -> Seen>;

/// Some seed must reach each of these. Three faults are missing. `UnreadConnection` needs ten
/// seconds. `Endless` needs a dead client that goes on (see the broker's core). `TakenBack` needs a
/// commit word that vanishes under a client. The results of `live_page` depend on timing.
const SOMETIMES: &[&str] = &[
    "Disconnected::Closed",
    "Disconnected::PeerDied",
    "Disconnected::ProtocolError",
    "Event::Empty",
    "Event::Message",
    "Event::PageAdvanced",
    "Event::Unknown",
    "Fault::Control",
    "Fault::CursorAhead",
    "Fault::CursorBackwards",
    "Fault::Descriptor",
    "Fault::Kind",
    "Fault::Length",
    "Fault::NoCursor",
    "Fault::OriginBus",
    "Fault::OverBudget",
    "Fault::PageBase",
    "Fault::PageFirst",
    "Fault::PageId",
    "Fault::PageInUse",
    "Fault::PageLength",
    "Fault::PageMagic",
    "Fault::PageOwner",
    "Fault::PageTwice",
    "Fault::PageVersion",
    "Fault::RefMessage",
    "Fault::Reserved",
    "Fault::Start",
    "Fault::UnknownPage",
    "Fault::Wire",
    "a hostile receiver has consumed everything",
    "a socket was full",
    "abort",
    "batch",
    "broadcast chain full",
    "broadcast page forgotten",
    "broadcast page reused",
    "broker slept and was rung",
    "by reference in a chain",
    "by reference in bytes",
    "by reference to another page",
    "by reference",
    "channel receiver",
    "channel sender",
    "client slept and was rung",
    "connected",
    "control",
    "decoded",
    "disconnected for Control",
    "disconnected for CursorAhead",
    "disconnected for CursorBackwards",
    "disconnected for Kind",
    "disconnected for Length",
    "disconnected for OverBudget",
    "disconnected for PageInUse",
    "disconnected for PageOwner",
    "disconnected for PageTwice",
    "disconnected for Reserved",
    "disconnected for UnknownPage",
    "drained in part",
    "drained",
    "extension",
    "forget",
    "full",
    "harmless",
    "joined late",
    "left",
    "live bus",
    "live heap",
    "live mapping",
    "own chain full",
    "payload by reference changed",
    "read by reference",
    "refused",
    "reuse",
    "states joined a broker",
    "states joined a channel",
    "states joined a client",
    "states received a sender",
    "states refused",
    "too long",
];

/// The same of the command line.
#[cfg(feature = "cli")]
const SOMETIMES_OF_THE_PROGRAM: &[&str] = &[
    "a bus",
    "a command",
    "a line",
    "a size",
    "a usage error",
    "bytes in JSON",
    "help",
    "no command",
    "no text",
    "seconds",
    "text in JSON",
    "too long a line",
    "users",
];

/// Returns the length of a message whose length word changes at access number `change`.
fn length_read(change: usize, parse: fn(Page) -> Option<usize>) -> Option<usize> {
    let page = heap(256);
    let mut sender = ChainWriter::new(1, limits(), page.clone());
    sender.send(Envelope::tagged(1), b"honest").unwrap();
    let mut accesses = 0;
    let mischief: Mischief = Box::new(move |at, honest| {
        let is_now = at == PAGE_HEADER && accesses >= change;
        accesses += usize::from(at == PAGE_HEADER);
        if is_now { honest + 5000 } else { honest }
    });
    parse(Hostile::new(page, Arc::new(Mutex::new(mischief))))
}

type Mischief = Box<dyn FnMut(usize, u64) -> u64 + Send>;
type Page = Hostile<Region, Mischief>;

fn limits() -> Limits {
    Limits::new(256, 100, 1024).unwrap()
}

#[test]
fn a_parser_that_reads_a_length_twice_is_caught_and_ours_is_not() {
    fn naive(page: Page) -> Option<usize> {
        let len = || low(page.load(PAGE_HEADER, Site::CommitRead)) as usize;
        (len() <= limits().max_message_len()).then(len)
    }
    fn ours(page: Page) -> Option<usize> {
        let control = Hostile::new(
            heap(control_len(1)),
            Arc::new(Mutex::new(Box::new(|_, honest| honest) as Mischief)),
        );
        let control = Control::create(control, 1);
        let mut receiver = ChainReader::from_beginning(limits(), 1, page, control, 0).ok()?;
        let Ok(Event::Message(slot)) = receiver.poll() else { return None };
        Some(slot.payload_len())
    }
    let is_caught = |parse| {
        let read = (0..4).filter_map(move |change| length_read(change, parse));
        read.max().expect("an unchanged message") > limits().max_message_len()
    };
    assert!(is_caught(naive));
    assert!(!is_caught(ours));
}

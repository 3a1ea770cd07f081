//! The floors of the house: `src/core` knows no kernel, `src/sys` knows no protocol, and the library
//! joins them. Imports run downwards only.

use std::path::{Path, PathBuf};

/// A floor: its place in the sources, the modules of the crate that it may use, and other crates that it
/// must not use.
struct Floor {
    place: &'static str,
    uses: &'static [&'static str],
    shuns: &'static [&'static str],
}

/// From the ground up. Every other place is the library, which may use all of them.
const FLOORS: &[Floor] = &[
    Floor { place: "core", uses: &["core"], shuns: &["std", "libc", "rustix", "memmap2"] },
    Floor { place: "sys", uses: &["core", "sys"], shuns: &[] },
];

/// The parts of the core that the kernel floor uses. None of them knows packets, members or a bus.
const SYS_USES_OF_CORE: &[&str] = &["failpoint", "fault", "layout", "memory", "order"];

/// The files with `unsafe` code: the access to memory, the borrow of a claimed slot, and the
/// kernel.
const UNSAFE: &[&str] =
    &["core/memory/region.rs", "core/memory/heap.rs", "core/chain/claim.rs", "sys/"];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), code(&text)));
            }
        }
    }
    found
}

/// The code of a file without its comments and its unit tests, which stand at its end.
fn code(text: &str) -> String {
    let text = match text.find("#[cfg(test)]\nmod tests {") {
        Some(tests) => &text[..tests],
        None => text,
    };
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn is_tests(path: &Path) -> bool {
    path.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// Every path in the code that begins with `root::`, as the name that follows.
fn named<'a>(code: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.match_indices(root).filter_map(move |(at, _)| {
        let is_whole = !code[..at].ends_with(is_part);
        let rest = code[at + root.len()..].strip_prefix("::")?;
        let name = rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next()?;
        is_whole.then_some(name)
    })
}

fn faults(floor: &Floor, path: &Path, code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in named(code, "crate") {
        // `crate::{…}` would hide what it names.
        if !floor.uses.contains(&name) {
            found.push(format!("{}: uses crate::{name}", path.display()));
        }
    }
    // The steps at which a test kills a process are counted with the standard library.
    let counts_steps = path.ends_with("core/failpoint.rs");
    for root in floor.shuns.iter().filter(|_| !counts_steps) {
        if named(code, root).next().is_some() {
            found.push(format!("{}: uses {root}", path.display()));
        }
    }
    // Each `super` leads one module up, and the file's own name is one module.
    let depth = path.components().count();
    if code.contains(&vec!["super"; depth].join("::")) {
        found.push(format!("{}: leaves its floor by super", path.display()));
    }
    found
}

#[test]
fn imports_run_downwards_only() {
    let mut files = 0;
    for (path, code) in sources().iter().filter(|(path, _)| !is_tests(path)) {
        let floor = FLOORS.iter().find(|floor| {
            path.starts_with(floor.place) || path.to_str() == Some(&format!("{}.rs", floor.place))
        });
        let Some(floor) = floor else { continue };
        files += 1;
        assert_eq!(faults(floor, path, code), [""; 0]);
        for name in named(code, "crate::core").filter(|_| floor.place == "sys") {
            assert!(SYS_USES_OF_CORE.contains(&name), "{}: uses core::{name}", path.display());
        }
    }
    assert!(files > 30, "{files} files");
}

#[test]
fn an_upward_import_is_found() {
    let [core, sys] = FLOORS else { panic!() };
    let path = Path::new("core/chain/pool.rs");
    assert_eq!(faults(core, path, "use crate::core::chain::Start;"), [""; 0]);
    for upward in [
        "use crate::sys::memfd;",
        "let x = crate::error::full();",
        "use crate::{core, sys};",
        "use std::io;",
        "use rustix::fs;",
        "use super::super::super::sys;",
    ] {
        assert_eq!(faults(core, path, upward).len(), 1, "{upward}");
    }
    assert_eq!(faults(sys, Path::new("sys/lock.rs"), "use crate::bus_addr::BusAddr;").len(), 1);
}

#[test]
fn unsafe_code_is_in_few_files() {
    for (path, code) in sources() {
        let path = path.to_str().unwrap();
        let is_door = UNSAFE.iter().any(|door| path.starts_with(door));
        let mut lines = code.lines().filter(|line| {
            let is_lint = line.contains("unsafe_code") || line.contains("unsafe_op");
            line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe")
                && !is_lint
        });
        assert!(is_door || is_tests(Path::new(path)) || lines.next().is_none(), "unsafe in {path}");
    }
}

/// The calls that stand in for the kernel's in Miri are no code of production.
const STUBS: &str = "sys/miri";

/// The row of a file with this number of unsafe blocks, in the table of what Miri runs.
fn row<'a>(table: &'a str, path: &str) -> Option<(usize, usize, &'a str)> {
    let cells: Vec<_> = table
        .lines()
        .find_map(|line| line.strip_prefix(&format!("| `src/{path}` |")))?
        .split('|')
        .map(str::trim)
        .collect();
    Some((cells.first()?.parse().ok()?, cells.get(1)?.parse().ok()?, cells.get(2)?))
}

/// Returns what is wrong with a file's row.
fn unlisted(table: &str, path: &str, code: &str) -> Option<String> {
    let words: Vec<_> = code.split_whitespace().collect();
    let opens = |pair: &&[&str]| pair[0].ends_with("unsafe") && ["{", "impl"].contains(&pair[1]);
    match (words.windows(2).filter(opens).count(), row(table, path)) {
        (0, None) => None,
        (found, Some((blocks, run, why)))
            if found == blocks && run <= found && (run == found || !why.is_empty()) =>
        {
            None
        }
        (found, row) => Some(format!("{path}: {found} unsafe blocks, and the table has {row:?}")),
    }
}

#[test]
fn each_unsafe_block_is_listed_with_what_miri_runs() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/lab/sanitizers.md");
    let table = std::fs::read_to_string(table).unwrap();
    let sources = sources();
    let paths = sources.iter().map(|(path, code)| (path.to_str().unwrap(), code));
    let ours = paths.filter(|(path, _)| !path.starts_with(STUBS) && !is_tests(Path::new(path)));
    let wrong: Vec<_> = ours.filter_map(|(path, code)| unlisted(&table, path, code)).collect();
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn an_unsafe_block_that_is_not_listed_is_found() {
    let table = "| `src/sys/a.rs` | 2 | 1 | a fork |\n| `src/sys/b.rs` | 2 | 1 | |\n";
    let two = "let a = unsafe { b() };\nunsafe impl Send for C {}\nunsafe fn d();";
    assert_eq!(unlisted(table, "sys/a.rs", two), None);
    assert_eq!(unlisted(table, "sys/c.rs", ""), None);
    assert!(unlisted(table, "sys/a.rs", "unsafe { b() }").is_some(), "one is gone");
    assert!(unlisted(table, "sys/b.rs", two).is_some(), "no reason is given");
    assert!(unlisted(table, "sys/c.rs", two).is_some(), "no row");
}

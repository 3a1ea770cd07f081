//! Mistakes in the source of production's memory, in a copy of the package.

use std::fs;
use std::path::{Path, PathBuf};

/// A mistake in the source.
#[derive(Clone, Copy)]
pub struct Source {
    pub what: &'static str,
    file: &'static str,
    old: &'static str,
    new: &'static str,
    /// The scenario that judges it, with production's memory.
    pub scenario: &'static str,
    /// The seeds from 0 up to this one.
    pub seeds: u32,
    /// `quick` if it is judged each time, else `all`.
    pub extent: &'static str,
}

impl Source {
    /// All mistakes.
    pub const ALL: &[Source] = &[
        Source {
            what: "Region::load without Acquire",
            file: "src/core/memory/region.rs",
            old: "if site.ordering() == Ordering::Acquire {",
            new: "if false {",
            scenario: "lengths",
            seeds: 16,
            extent: "quick",
        },
        Source {
            what: "Region::store without Release",
            file: "src/core/memory/region.rs",
            old: "store(value.to_le(), site.ordering())",
            new: "store(value.to_le(), Ordering::Relaxed)",
            scenario: "lengths",
            seeds: 16,
            extent: "quick",
        },
        Source {
            what: "Region::fence without a fence",
            file: "src/core/memory/region.rs",
            old: "        fence(site.ordering());\n",
            new: "        let _ = site;\n",
            scenario: "sender_sleeps",
            seeds: 16,
            extent: "all",
        },
    ];
}

/// What the package consists of, as far as it is built here.
const PARTS: &[&str] =
    &["Cargo.toml", "Cargo.lock", "src", "model", "tests", "examples", "benches"];

/// Returns a copy of the package with a mistake.
pub fn copy_with(source: &Source) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mistaken");
    fs::create_dir_all(&copy).unwrap();
    for part in PARTS {
        copy_all(&here.join(part), &copy.join(part));
    }
    // With another version, cargo does not take what it has built for that of this package. It
    // shares the dependencies.
    let name = concat!("name = \"", env!("CARGO_PKG_NAME"), "\"\nversion = \"");
    let is = format!("{name}{}", env!("CARGO_PKG_VERSION"));
    for file in ["Cargo.toml", "Cargo.lock"] {
        replace(&copy.join(file), &is, &format!("{is}-mistaken"));
    }
    replace(&copy.join(source.file), source.old, source.new);
    copy
}

fn replace(file: &Path, old: &str, new: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert_eq!(text.matches(old).count(), 1, "{}: {old}", file.display());
    fs::write(file, text.replace(old, new)).unwrap();
}

/// Copies a file, or a folder without what cargo has built there.
fn copy_all(from: &Path, to: &Path) {
    if !from.is_dir() {
        if fs::read(from).ok() != fs::read(to).ok() {
            fs::copy(from, to).unwrap();
        }
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| entry.file_name() != "target")
    {
        copy_all(&entry.path(), &to.join(entry.file_name()));
    }
}

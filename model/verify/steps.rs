//! The commands, and the output that each must have.

use super::Name;

/// One command.
pub struct Step {
    pub name: Name,
    /// Its label in the table.
    pub label: String,
    pub command: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    /// Files of the test targets that must each have run tests.
    pub targets: Vec<&'static str>,
    /// Beginnings of lines, and the least number that each must be followed by.
    pub at_least: &'static [(&'static str, usize)],
    /// Number of Miri's seeds. With each of them the whole test target must have run.
    pub seeds: u32,
    /// What must be installed in addition to stable Rust.
    pub needs: &'static str,
    /// The beginning of the line by which the command says that it has run nothing. The command ends
    /// with status 0 only if that is allowed.
    pub skipped: Option<&'static str>,
}

impl Step {
    /// A command that has to end with status 0.
    pub fn new(name: Name, label: &str, command: &str) -> Self {
        Step {
            name,
            label: label.to_owned(),
            command: command.split(' ').map(str::to_owned).collect(),
            environment: vec![],
            targets: vec![],
            at_least: &[],
            seeds: 0,
            needs: "",
            skipped: None,
        }
    }
}

/// Test targets that depend on features. Without this list a missing one would go unnoticed.
const TARGETS: &[&str] = &[
    "model/axioms/main.rs",
    "model/loom/main.rs",
    "model/mutants/main.rs",
    "model/shuttle/main.rs",
    "model/spec/main.rs",
    "model/refine/main.rs",
    "tests/crash/main.rs",
    "tests/fuzz_replay.rs",
];

/// The edges and the published verdicts that the axioms must be checked on. Raise them with new ones.
const AXIOMS: &[(&str, usize)] = &[("axioms edges: ", 25), ("axioms published: ", 311)];

/// The least number of tests on each other machine, and on one bus with all of them.
const MACHINES: &[(&str, usize)] = &[
    ("machines aarch64, pages of 4096: ", 150),
    ("machines s390x, pages of 4096: ", 150),
    ("machines aarch64, pages of 16384: ", 130),
    ("machines aarch64, pages of 65536: ", 130),
    ("machines mixed: ", 5),
];

pub fn steps(full: bool, fuzz_seconds: Option<u32>) -> Vec<Step> {
    let mut steps = vec![tests(full), axioms(), machines()];
    let seconds = fuzz_seconds.unwrap_or(if full { 150 } else { 20 });
    steps.extend(fuzz_targets().into_iter().map(|target| fuzz(&target, seconds)));
    let strict = "-Zmiri-strict-provenance";
    let (weak, tree) = if full { (16, 16) } else { (3, 2) };
    steps.extend([
        miri("miri, stacked borrows", weak, strict, "words"),
        // Without weak memory it uses payloads of all lengths, see `model/miri/lengths.rs`.
        miri(
            "miri, tree borrows",
            tree,
            &format!("{strict} -Zmiri-tree-borrows -Zmiri-disable-weak-memory-emulation"),
            "all",
        ),
        miri_sys("miri, stacked borrows", strict),
        miri_mutants(full),
    ]);
    if full {
        steps.push(miri_sys("miri, tree borrows", &format!("{strict} -Zmiri-tree-borrows")));
    }
    if full {
        steps.push(threads());
    }
    steps
}

fn tests(full: bool) -> Step {
    let mut environment = Vec::new();
    if full {
        environment.push(("LLMP_ITERATIONS", "20000".to_owned()));
        environment.push(("LLMP_PROGRAMS", "100000".to_owned()));
        environment.push(("LLMP_PREEMPTIONS", "full".to_owned()));
        environment.push(("LLMP_SPEC", "full".to_owned()));
        environment.push(("PROPTEST_CASES", "20000".to_owned()));
    }
    Step {
        environment,
        targets: TARGETS.iter().copied().chain(super::edge::targets()).collect(),
        ..Step::new(Name::Tests, "tests", "cargo test --all-features --no-fail-fast")
    }
}

fn axioms() -> Step {
    Step {
        targets: vec!["model/axioms/main.rs"],
        at_least: AXIOMS,
        ..Step::new(Name::Axioms, "axioms", "cargo test --all-features --test axioms")
    }
}

fn machines() -> Step {
    Step {
        targets: vec!["tests/machines.rs", "tests/chain.rs", "tests/death.rs"],
        at_least: MACHINES,
        needs: "cross linkers and qemu-user (.ci/cross --install)",
        skipped: Some("SKIPPED: other machines: "),
        ..Step::new(Name::Machines, "machines", ".ci/cross")
    }
}

/// Returns the names of the fuzz targets, from their files.
fn fuzz_targets() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/fuzz_targets");
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        files.filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

fn fuzz(target: &str, seconds: u32) -> Step {
    let corpus = format!("fuzz/corpus/{target}");
    // libFuzzer writes to the first folder and requires that it exists.
    let _ = std::fs::create_dir_all(&corpus);
    let command = format!(
        "cargo +nightly fuzz run {target} {corpus} fuzz/seeds/{target} -- \
         -max_total_time={seconds} -print_final_stats=1 -verbosity=0"
    );
    Step {
        needs: "a nightly toolchain and cargo-fuzz (cargo install cargo-fuzz)",
        ..Step::new(Name::Fuzz, &format!("fuzz {target}"), &command)
    }
}

/// Returns the step that runs the protocol over heap memory in Miri, once for each seed.
fn miri(label: &str, seeds: u32, flags: &str, lengths: &str) -> Step {
    let command = format!(
        "cargo +nightly miri test --no-default-features --features std --test miri -- {lengths}"
    );
    Step {
        environment: vec![("MIRIFLAGS", format!("{flags} -Zmiri-many-seeds=0..{seeds}"))],
        seeds,
        needs: MIRI,
        ..Step::new(Name::Miri, label, &command)
    }
}

/// What Miri needs.
const MIRI: &str =
    "a nightly toolchain with Miri (rustup component add miri rust-src --toolchain nightly)";

/// The unit tests that reach the unsafe code of `src/sys` and `Region`, as in
/// `docs/lab/sanitizers.md`.
const MIRI_SYS: &str = "sys::credentials sys::fork sys::lock sys::system sys::unread \
     sys::memfd::tests::the_reader sys::memfd::tests::a_region core::memory core::chain::claim \
     socket::tests::a_dropped_connection";

/// Returns the step that runs them in Miri.
fn miri_sys(borrows: &str, flags: &str) -> Step {
    let command = format!(
        "cargo +nightly miri test --no-default-features --features std --lib -- {MIRI_SYS}"
    );
    Step {
        // The tables of `fork.rs` are never freed.
        environment: vec![("MIRIFLAGS", format!("{flags} -Zmiri-ignore-leaks"))],
        at_least: &[("test result: ok. ", 18)],
        needs: MIRI,
        ..Step::new(Name::Miri, &format!("{borrows}, sys"), &command)
    }
}

/// Returns the step in which Miri judges mutants: those that it notices soonest, or all.
fn miri_mutants(full: bool) -> Step {
    let judge = if full { "judge-all" } else { "judge" };
    let command = format!("cargo test --no-default-features --features std --test miri -- {judge}");
    Step {
        at_least: &[("mutants: ", 14)],
        needs: MIRI,
        ..Step::new(Name::Miri, "miri, mutants", &command)
    }
}

fn threads() -> Step {
    let command = "cargo +nightly test -Zbuild-std --target x86_64-unknown-linux-gnu --no-default-features --features std \
         --test races --test threads --test chain --test processes --test death \
         --test hostile_client -- --skip an_idle_bus";
    Step {
        environment: vec![("RUSTFLAGS", "-Zsanitizer=thread".to_owned())],
        targets: vec!["tests/threads.rs"],
        needs: "a nightly toolchain with rust-src (rustup +nightly component add rust-src)",
        ..Step::new(Name::Threads, "threads", command)
    }
}

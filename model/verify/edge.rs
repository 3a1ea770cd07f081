//! The edge: where the models end, and the kernel, the process and Rust's types begin.

/// The part of the edge that a test target or a fuzz target covers, by its file or name.
const EDGES: &[(&str, &str)] = &[
    ("tests/bad_input.rs", "sockets"),
    ("tests/bad_memory.rs", "shared memory"),
    ("tests/channel_accept.rs", "handshakes"),
    ("tests/cli/main.rs", "inherited state, limits"),
    ("tests/crash/main.rs", "death at each step"),
    ("tests/death.rs", "death"),
    ("tests/few_descriptors.rs", "few descriptors"),
    ("tests/fork/main.rs", "forks"),
    ("tests/half_shut.rs", "half connections"),
    ("tests/hostile_broker.rs", "brokers"),
    ("tests/hostile_client.rs", "clients"),
    ("tests/outlive.rs", "death of brokers"),
    ("tests/place.rs", "the lock file"),
    ("tests/processes.rs", "processes"),
    ("tests/refused.rs", "a kernel without memory"),
    ("tests/slow_to_close.rs", "descriptors"),
    ("tests/removed.rs", "receivers that live on"),
    ("tests/wakeups.rs", "a real scheduler"),
    ("fuzz handshake", "descriptors, sockets"),
    ("fuzz live_bus", "shared memory"),
];

/// Returns what a row's target covers of the edge. Empty for a model.
pub fn of(target: &str) -> &'static str {
    EDGES.iter().find(|(name, _)| *name == target).map_or("", |(_, edge)| edge)
}

/// Returns the files of the test targets that cover the edge. Each must have run.
pub fn targets() -> impl Iterator<Item = &'static str> {
    EDGES.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".rs"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_target_of_the_edge_exists() {
        for file in super::targets() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            assert!(path.is_file(), "{file}");
        }
    }
}

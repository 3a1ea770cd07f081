#!/usr/bin/env bash
# loom, acquire fences: a fence also acquires a store that the thread itself has never read, if another
# thread has read it (relaxed) before something that the fencing thread has acquired. C11 gives no such
# edge: a fence synchronizes only through a load of its own thread. So a model with such a fence passes
# although an earlier load in the other thread should be an acquire.
#
#   thread 1: data = 1 (relaxed);  flag = 1 (release)
#   thread 2: flag == 1 (relaxed); done = 1 (release)
#   thread 3: done == 1 (acquire); [fence(acquire)]; data?     C11 allows 0, with and without the fence
#
# Versions: loom 0.7.3, Rust 1.95.
# Seen: without the fence, loom finds data == 0; with it, never; with an acquire in thread 2, never.
# Why: rt/atomic.rs, fence_acq, joins the causality of every store whose first reader happens before the
# fence, whichever thread that reader is.
# What follows: a load whose acquire is redundant only because of such a fence needs another judge, for
# example an axiomatic checker. Armv8 and x86-64 never show 0; POWER may.
#
# Fails if that changes. Needs cargo.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat > "$dir/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
loom = "=0.7.3"
TOML
cat > "$dir/src/main.rs" <<'RUST'
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Returns whether the third thread finds the old data in some execution.
fn finds_old_data(second_reads: Ordering, third_fences: bool) -> bool {
    let found = Arc::new(AtomicBool::new(false));
    let report = found.clone();
    loom::model(move || {
        let words = loom::sync::Arc::new([(); 3].map(|()| AtomicU64::new(0)));
        let (one, two) = (words.clone(), words.clone());
        let first = loom::thread::spawn(move || {
            one[0].store(1, Ordering::Relaxed);
            one[1].store(1, Ordering::Release);
        });
        let second = loom::thread::spawn(move || {
            if two[1].load(second_reads) == 1 {
                two[2].store(1, Ordering::Release);
            }
        });
        if words[2].load(Ordering::Acquire) == 1 {
            if third_fences {
                fence(Ordering::Acquire);
            }
            if words[0].load(Ordering::Relaxed) == 0 {
                report.store(true, Ordering::Relaxed);
            }
        }
        first.join().unwrap();
        second.join().unwrap();
    });
    found.load(Ordering::Relaxed)
}

fn main() {
    let [bare, fenced] = [false, true].map(|fences| finds_old_data(Ordering::Relaxed, fences));
    let acquired = finds_old_data(Ordering::Acquire, false);
    println!("old data: relaxed {bare}, relaxed and a fence {fenced}, acquire {acquired}");
    assert_eq!((bare, fenced, acquired), (true, false, false), "loom has changed");
}
RUST
cargo run --quiet --release --manifest-path "$dir/Cargo.toml"

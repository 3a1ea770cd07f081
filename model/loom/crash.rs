//! Death after every step: a sender and a receiver stop for ever after their k-th write, for
//! every k, under every interleaving and reordering.

use crate::explore::{Loom, LoomMemory, Protocol, explore, report};
use crate::scenario::chain::{Receiving, Sending, Size, Step, control_memory, finish, join};
use crate::scenario::{Descriptors, Mailbox, Runtime};
use llmp::control::Control;
use llmp::memory::{Crashing, Lifeline};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pages + 2 messages, so that pages are written again.
const SIZE: Size = Size { messages_per_page: 1, pages: 2, messages: 4, receivers: 1, steps: 4 };

/// A sender that dies after `k` writes. What it had committed is received, whole and in order;
/// the torn message is not. Returns whether it died. [P4]
fn sender_dies(runtime: &Loom, k: usize) -> bool {
    let lifeline = Lifeline::ends_after(k);
    let mortal = lifeline.clone();
    let view = move |memory| Crashing::new(memory, mortal.clone());
    let mut sending = Sending::with(runtime, SIZE.limits(), Box::new(view.clone()));
    if lifeline.is_over() {
        // It died before its first page was ready, and so before anybody heard of it.
        return true;
    }
    let memory = control_memory(runtime);
    let control = Control::create(memory.clone(), 1);
    let socket = Descriptors::default();
    let start = sending.admit(0, view(memory), socket.clone());
    let mut receiving =
        Receiving::new(SIZE.limits(), control, socket, start, Box::new(|page: LoomMemory| page));
    let thread = runtime.spawn(move || {
        for _ in 0..SIZE.steps {
            receiving.step();
        }
        receiving
    });
    let mut committed = 0;
    for _ in 0..SIZE.messages + 1 {
        if sending.next() < SIZE.messages && sending.send() == Step::Done && !lifeline.is_over() {
            committed = sending.next();
        }
    }
    let mut receiving = thread();
    while receiving.step() == Step::Done {}
    // Its last write may have been the one that publishes.
    let most = committed + u64::from(lifeline.is_over());
    let received = receiving.next();
    assert!((committed..=most).contains(&received), "{received} received, {committed} committed");
    lifeline.is_over()
}

/// A receiver that dies after `k` writes. Another one and the sender lose nothing, and get on as
/// soon as its connection has ended. Returns whether it died. [P4 P8 P9]
fn receiver_dies(runtime: &Loom, k: usize) -> bool {
    let mut sending = Sending::new(runtime, SIZE.limits());
    let mut survivor = join(runtime, SIZE.limits(), &mut sending, 0);
    let lifeline = Lifeline::ends_after(k);
    let memory = control_memory(runtime);
    Control::create(memory.clone(), 1);
    let socket = Descriptors::default();
    let start = sending.admit(1, memory.clone(), socket.clone());
    let hang_up = runtime.mailbox::<bool>();
    let thread = {
        let hang_up = hang_up.clone();
        runtime.spawn(move || {
            let mortal = lifeline.clone();
            let view = move |memory| Crashing::new(memory, mortal.clone());
            if !lifeline.is_over() {
                let control = Control::check(view(memory), 0).unwrap();
                let view = Box::new(view);
                let mut receiving = Receiving::new(SIZE.limits(), control, socket, start, view);
                for _ in 0..7 {
                    receiving.step();
                }
            }
            hang_up.put(lifeline.is_over());
        })
    };
    let mut died = None;
    for _ in 0..SIZE.messages + 1 {
        if sending.next() < SIZE.messages && sending.send() == Step::Nothing && died.is_none() {
            died = hang_up.take();
            if died.is_some() {
                sending.strike(1);
            }
        }
        // Keeps up, so that the dead one's cursor is the only thing in the way.
        while survivor.step() == Step::Done {}
        survivor.give_up();
    }
    thread();
    let died = died.unwrap_or_else(|| {
        sending.strike(1);
        hang_up.take().expect("it has hung up")
    });
    finish(&mut sending, &mut [survivor], SIZE.messages);
    died
}

/// Explores death after every number of writes, until the process lives through them all.
fn at_every_step(name: &str, bound: Option<usize>, scenario: fn(&Loom, usize) -> bool) {
    let (mut executions, mut time) = (0, Duration::ZERO);
    for k in 0.. {
        let died = Arc::new(AtomicBool::new(false));
        let seen = died.clone();
        let explored = explore(bound, Protocol::Production, move |runtime| {
            seen.fetch_or(scenario(runtime, k), Ordering::Relaxed);
        });
        let explored = explored.unwrap_or_else(|failure| resume_unwind(failure.panic));
        executions += explored.executions;
        time += explored.time;
        if !died.load(Ordering::Relaxed) {
            let extent = bound.map_or("exhaustive".into(), |b| format!("at most {b} preemptions"));
            report(&format!(
                "model {name}: death after each of {k} writes, {extent}, {executions} executions in {:.2} s",
                time.as_secs_f64()
            ));
            assert!(k >= 2, "no step at which it could have died");
            return;
        }
    }
}

#[test]
fn p4_a_sender_dies_after_each_of_its_steps() {
    at_every_step("sender_dies", None, sender_dies);
}

#[test]
fn p4_p8_a_receiver_dies_after_each_of_its_steps() {
    at_every_step("receiver_dies", None, receiver_dies);
}

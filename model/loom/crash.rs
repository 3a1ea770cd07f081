//! Crashes after every step: a sender, a receiver, a sleeping process or a broker stops after its
//! k-th write, for every k, under every interleaving and reordering.

use crate::broker::broker_dies;
use crate::check::{Check, bound, deaths};
use crate::doorbell::until_death;
use crate::explore::{Explored, Loom, LoomMemory, report};
use crate::models::{BUS_OF_ONE, BUS_OF_TWO, REF_SIZE};
use crate::scenario::by_ref::{self, Lives, by_reference};
use crate::scenario::chain::{
    Receiving, Sending, Size, Step, control_memory, finish, join, limits,
};
use crate::scenario::doubles::{CrashBudget, Crashing};
use crate::scenario::{Descriptors, Mailbox, Runtime};
use llmp::core::chain::Start;
use llmp::core::control::Control;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Pages + 2 messages, so that pages are reused.
const SIZE: Size = Size { messages_per_page: 1, pages: 2, messages: 4, receivers: 1, steps: 4 };

/// A sender dies after `k` writes. The receiver gets everything that it had committed, in order,
/// and no torn message. Returns whether it died. [P4]
fn sender_dies(runtime: &Loom, k: usize) -> bool {
    let crash_budget = CrashBudget::ends_after(k);
    let mortal = crash_budget.clone();
    let view = move |memory| Crashing::new(memory, mortal.clone());
    let mut sending = Sending::with(runtime, SIZE.limits(), Box::new(view.clone()));
    if crash_budget.is_over() {
        // It died before its first page was ready, so no process has seen it.
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
        if sending.next() < SIZE.messages && sending.send() == Step::Done && !crash_budget.is_over()
        {
            committed = sending.next();
        }
    }
    let mut receiving = thread();
    while receiving.step() == Step::Done {}
    // Its last write may have published one more message.
    let most = committed + u64::from(crash_budget.is_over());
    let received = receiving.next();
    assert!((committed..=most).contains(&received), "{received} received, {committed} committed");
    crash_budget.is_over()
}

/// A receiver dies after `k` writes. Another receiver and the sender lose nothing. They continue
/// once the dead one's connection has ended. Returns whether it died. [P4 P8 P9]
fn receiver_dies(runtime: &Loom, k: usize) -> bool {
    let mut sending = Sending::new(runtime, SIZE.limits());
    let mut survivor = join(runtime, SIZE.limits(), &mut sending, 0);
    let crash_budget = CrashBudget::ends_after(k);
    let memory = control_memory(runtime);
    Control::create(memory.clone(), 1);
    let socket = Descriptors::default();
    let start = sending.admit(1, memory.clone(), socket.clone());
    let hang_up = runtime.mailbox::<bool>();
    let thread = {
        let hang_up = hang_up.clone();
        runtime.spawn(move || {
            let mortal = crash_budget.clone();
            let view = move |memory| Crashing::new(memory, mortal.clone());
            if !crash_budget.is_over() {
                let control = Control::check(view(memory), 0).unwrap();
                let view = Box::new(view);
                let mut receiving = Receiving::new(SIZE.limits(), control, socket, start, view);
                for _ in 0..7 {
                    receiving.step();
                }
            }
            hang_up.put(crash_budget.is_over());
        })
    };
    let mut died = None;
    for _ in 0..SIZE.messages + 1 {
        if sending.next() < SIZE.messages && sending.send() == Step::Nothing && died.is_none() {
            died = hang_up.take();
            if died.is_some() {
                sending.remove_receiver(1);
            }
        }
        // Keeps up, so that only the dead receiver's cursor blocks the sender.
        while survivor.step() == Step::Done {}
        survivor.release();
    }
    thread();
    let died = died.unwrap_or_else(|| {
        sending.remove_receiver(1);
        hang_up.take().expect("it has hung up")
    });
    finish(&mut sending, &mut [survivor], SIZE.messages);
    died
}

/// The only receiver dies after `k` writes. The sender continues once the connection has ended.
/// Returns whether it died. [P8 P9]
fn lone_receiver_dies(runtime: &Loom, k: usize) -> bool {
    let mut sending = Sending::new(runtime, SIZE.limits());
    let crash_budget = CrashBudget::ends_after(k);
    let memory = control_memory(runtime);
    Control::create(memory.clone(), 1);
    let socket = Descriptors::default();
    let start = sending.admit(0, memory.clone(), socket.clone());
    let thread = {
        let crash_budget = crash_budget.clone();
        runtime.spawn(move || {
            let mortal = crash_budget.clone();
            let view = move |memory| Crashing::new(memory, mortal.clone());
            if !crash_budget.is_over() {
                let control = Control::check(view(memory), 0).unwrap();
                let view = Box::new(view);
                let mut receiving = Receiving::new(SIZE.limits(), control, socket, start, view);
                for _ in 0..7 {
                    receiving.step();
                }
            }
        })
    };
    for _ in 0..SIZE.messages + 1 {
        if sending.next() < SIZE.messages {
            sending.send();
        }
    }
    thread();
    sending.remove_receiver(0);
    finish(&mut sending, &mut [], SIZE.messages);
    crash_budget.is_over()
}

/// A sender dies after `k` writes of a batch over a page rollover. The receiver gets the whole
/// batch or nothing. Returns whether it died. [P3 P4]
fn batch_sender_dies(runtime: &Loom, k: usize) -> bool {
    let size = Size { messages_per_page: 2, ..SIZE };
    let crash_budget = CrashBudget::ends_after(k);
    let mortal = crash_budget.clone();
    let view = move |memory| Crashing::new(memory, mortal.clone());
    let mut sending = Sending::with(runtime, size.limits(), Box::new(view.clone()));
    if crash_budget.is_over() {
        return true;
    }
    let memory = control_memory(runtime);
    let control = Control::create(memory.clone(), 1);
    let socket = Descriptors::default();
    let start = sending.admit(0, view(memory), socket.clone());
    let plain = Box::new(|page: LoomMemory| page);
    let mut receiving = Receiving::new(size.limits(), control, socket, start, plain);
    let thread = runtime.spawn(move || {
        for _ in 0..3 {
            receiving.step();
            while (1..size.messages).contains(&receiving.next()) {
                assert_eq!(receiving.step(), Step::Done, "a batch that is visible in part");
            }
        }
        receiving
    });
    for _ in 0..size.messages {
        sending.append();
    }
    sending.publish();
    let mut receiving = thread();
    while receiving.step() == Step::Done {}
    let died = crash_budget.is_over();
    let received = receiving.next();
    assert!(received == size.messages || died && received == 0, "{received} of a batch");
    died
}

/// A receiver that is admitted during page reuse dies after `k` writes. The earlier receiver and
/// the sender lose nothing. Returns whether it died. [P4 P8 P9]
fn joiner_dies(runtime: &Loom, k: usize) -> bool {
    let mut sending = Sending::new(runtime, SIZE.limits());
    let mut first = join(runtime, SIZE.limits(), &mut sending, 0);
    let memory = control_memory(runtime);
    Control::create(memory.clone(), 1);
    let socket: Descriptors<LoomMemory> = Descriptors::default();
    let (start, hang_up) = (runtime.mailbox::<Start>(), runtime.mailbox::<bool>());
    let late = {
        let (memory, socket) = (memory.clone(), socket.clone());
        let (start, hang_up) = (start.clone(), hang_up.clone());
        runtime.spawn(move || {
            let crash_budget = CrashBudget::ends_after(k);
            let mortal = crash_budget.clone();
            let view = move |memory| Crashing::new(memory, mortal.clone());
            let start = start.wait();
            if !crash_budget.is_over() {
                let control = Control::check(view(memory), 0).unwrap();
                let view = Box::new(view);
                let mut late = Receiving::new(SIZE.limits(), control, socket, start, view);
                for _ in 0..SIZE.steps {
                    late.step();
                }
                late.release();
            }
            hang_up.put(crash_budget.is_over());
        })
    };
    let mut joins = Some(memory);
    let mut died = None;
    for _ in 0..SIZE.messages + 1 {
        if sending.next() < SIZE.messages && sending.send() == Step::Nothing && died.is_none() {
            died = hang_up.take();
            if died.is_some() {
                sending.remove_receiver(1);
            }
        }
        while first.step() == Step::Done {}
        first.release();
        if sending.next() == 2
            && let Some(memory) = joins.take()
        {
            start.put(sending.admit(1, memory, socket.clone()));
        }
    }
    late();
    let died = died.unwrap_or_else(|| {
        sending.remove_receiver(1);
        hang_up.take().expect("it has hung up")
    });
    finish(&mut sending, &mut [first], SIZE.messages);
    died
}

/// A sender dies after `k` writes while a receiver joins. Both receivers drain what it had
/// committed. Returns whether it died. [P3 P4]
fn sender_dies_while_one_joins(runtime: &Loom, k: usize) -> bool {
    let crash_budget = CrashBudget::ends_after(k);
    let mortal = crash_budget.clone();
    let view = move |memory| Crashing::new(memory, mortal.clone());
    let mut sending = Sending::with(runtime, SIZE.limits(), Box::new(view.clone()));
    if crash_budget.is_over() {
        return true;
    }
    let admitted = |sending: &mut Sending<Loom, _>, id| {
        let memory = control_memory(runtime);
        let control = Control::create(memory.clone(), 1);
        let socket = Descriptors::default();
        let start = sending.admit(id, view(memory), socket.clone());
        let plain = Box::new(|page: LoomMemory| page);
        move || Receiving::new(SIZE.limits(), control, socket, start, plain)
    };
    let mut first = admitted(&mut sending, 0)();
    let mut committed = 0;
    let mut late = None;
    for _ in 0..SIZE.messages + 1 {
        if sending.next() < SIZE.messages && sending.send() == Step::Done && !crash_budget.is_over()
        {
            committed = sending.next();
        }
        while first.step() == Step::Done {}
        first.release();
        if committed >= 2 && late.is_none() && !crash_budget.is_over() {
            let joins = admitted(&mut sending, 1);
            late = Some(runtime.spawn(move || {
                let mut late = joins();
                for _ in 0..SIZE.steps {
                    late.step();
                }
                late
            }));
        }
    }
    let most = committed + u64::from(crash_budget.is_over());
    let drained = first.next();
    assert!((committed..=most).contains(&drained), "{drained} received, {committed} committed");
    if let Some(late) = late {
        let mut late = late();
        while late.step() == Step::Done {}
        assert_eq!(late.next(), drained, "one has drained less");
    }
    crash_budget.is_over()
}

/// A sender dies after `k` writes while its receiver sleeps or is about to. The hang-up wakes the
/// receiver. [P4 P10]
fn sender_dies_beside_a_sleeper(runtime: &Loom, k: usize) -> bool {
    let life = CrashBudget::ends_after(k);
    let lives = [life.clone(), CrashBudget::endless()];
    let (committed, received) = until_death(runtime, limits(4, 2), 2, lives);
    let most = committed + u64::from(life.is_over());
    assert!((committed..=most).contains(&received), "{received} received, {committed} committed");
    life.is_over()
}

/// A receiver dies after `k` writes while its sender sleeps or is about to. [P5 P9 P10]
fn receiver_dies_beside_a_sleeper(runtime: &Loom, k: usize) -> bool {
    let life = CrashBudget::ends_after(k);
    let lives = [CrashBudget::endless(), life.clone()];
    let (committed, received) = until_death(runtime, limits(1, 2), 3, lives);
    assert!(received <= committed);
    assert!(life.is_over() || committed == 3);
    life.is_over()
}

const BY_REF: by_ref::Size = by_ref::Size { tries: 2, cycles: 2, steps: 2, ..REF_SIZE };

/// A client that sends by reference dies after `k` writes. Receivers get what it had committed from
/// its pages, which are released afterwards. Returns whether it died. [P4 P7 P8]
fn ref_sender_dies(runtime: &Loom, k: usize) -> bool {
    let sender = CrashBudget::ends_after(k);
    by_reference(runtime, BY_REF, &Lives { sender, clients_die: true, ..Lives::endless() })
}

/// The only receiver of messages by reference dies after `k` writes. The sender's pages are
/// released. Returns whether it died. [P8 P9]
fn ref_receiver_dies(runtime: &Loom, k: usize) -> bool {
    let receiver = CrashBudget::ends_after(k);
    by_reference(runtime, BY_REF, &Lives { receiver, clients_die: true, ..Lives::endless() })
}

/// A broker dies after `k` writes while it forwards by reference. Everything that it had consumed
/// is received and not overwritten meanwhile. Returns whether it died. [P3 P5 P8]
fn ref_broker_dies(runtime: &Loom, k: usize) -> bool {
    by_reference(runtime, BY_REF, &Lives { broker: CrashBudget::ends_after(k), ..Lives::endless() })
}

/// Explores a crash after every number of writes, until the process survives the whole scenario.
fn at_every_step(name: &str, most: Option<usize>, scenario: fn(&Loom, usize) -> bool) {
    let mut total = Explored { executions: 0, time: Duration::ZERO, most_values: 0 };
    let bound = bound(name, most);
    for k in deaths() {
        let died = Arc::new(AtomicBool::new(false));
        let seen = died.clone();
        let explored = Check { name, bound, death: Some(k) }.run(move |runtime| {
            seen.fetch_or(scenario(runtime, k), Ordering::Relaxed);
        });
        total.executions += explored.executions;
        total.time += explored.time;
        total.most_values = total.most_values.max(explored.most_values);
        if !died.load(Ordering::Relaxed) {
            report(&format!("model {name}: death after each of {k} writes, {}", total.says(bound)));
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

#[test]
fn p8_p9_the_only_receiver_dies_after_each_of_its_steps() {
    at_every_step("lone_receiver_dies", None, lone_receiver_dies);
}

#[test]
fn p3_p4_a_sender_dies_after_each_step_of_a_batch() {
    at_every_step("batch_sender_dies", None, batch_sender_dies);
}

#[test]
fn p4_p8_a_receiver_dies_while_it_joins() {
    at_every_step("joiner_dies", None, joiner_dies);
}

#[test]
fn p4_a_sender_dies_while_a_receiver_joins() {
    at_every_step("sender_dies_while_one_joins", None, sender_dies_while_one_joins);
}

#[test]
fn p4_p10_a_senders_death_wakes_its_sleeping_receiver() {
    at_every_step("sender_dies_beside_a_sleeper", None, sender_dies_beside_a_sleeper);
}

#[test]
fn p9_p10_a_receivers_death_wakes_its_sleeping_sender() {
    at_every_step("receiver_dies_beside_a_sleeper", Some(2), receiver_dies_beside_a_sleeper);
}

#[test]
fn p3_p5_a_broker_dies_after_each_step_beside_one_client() {
    at_every_step("broker_dies_1_client", Some(3), |runtime, k| {
        broker_dies(runtime, BUS_OF_ONE, k)
    });
}

#[test]
fn p3_p5_a_broker_dies_after_each_step_beside_two_clients() {
    at_every_step("broker_dies_2_clients", Some(3), |runtime, k| {
        broker_dies(runtime, BUS_OF_TWO, k)
    });
}

#[test]
fn p4_p7_p8_a_sender_by_reference_dies_after_each_step() {
    at_every_step("ref_sender_dies", None, ref_sender_dies);
}

#[test]
fn p8_p9_the_only_receiver_by_reference_dies_after_each_step() {
    at_every_step("ref_receiver_dies", None, ref_receiver_dies);
}

#[test]
fn p3_p5_p8_a_broker_by_reference_dies_after_each_step() {
    at_every_step("ref_broker_dies", None, ref_broker_dies);
}

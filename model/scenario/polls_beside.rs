//! A broker with a client that polls and a client that sleeps.

use super::chain::{control_memory, limits};
use super::{Mailbox, Runtime, Who};
use llmp::Envelope;
use llmp::core::broker::{Action, Core};
use llmp::core::chain::{ChainReader, ChainWriter, Event};
use llmp::core::control::Control;
use llmp::core::layout::control_bytes;
use llmp::core::link::{Interest, Link};
use llmp::core::wire::Roles;

/// The processes. The client that polls takes no step while the others run.
const BROKER: Who = 0;
const SLEEPER: Who = 1;

/// A client that polls sends `messages`, and another one sleeps until they come. The broker does not
/// ring the first one. It makes its fence for the second one. [P10]
pub fn one_polls_and_one_sleeps<R: Runtime>(runtime: &R, messages: u64) {
    let limits = limits(4, 2);
    let by_broker = |memory: &R::Memory| runtime.seen_by(memory, BROKER);
    let by_sleeper = |memory: &R::Memory| runtime.seen_by(memory, SLEEPER);
    let (control, first) = (runtime.memory(control_bytes(2)), runtime.memory(limits.page_len()));
    let mut core = Core::new(limits, by_broker(&control), 2, by_broker(&first));

    let polls = core.reserve(Roles::SEND).unwrap();
    let (own, page) = (control_memory(runtime), runtime.memory(limits.page_len()));
    Control::create(own.clone(), 1).poll();
    core.join(polls.client, by_broker(&own)).unwrap();
    let mut sender = ChainWriter::new(polls.client.0, limits, page.clone());
    core.page_arrived(polls.client, 0, by_broker(&page)).unwrap();
    // From this message the broker knows that its sender polls.
    sender.send(Envelope::default(), &[7; 8]).unwrap();
    core.cycle();
    assert_eq!(core.take_actions(), []);

    let sleeps = core.reserve(Roles::RECEIVE).unwrap();
    let own = control_memory(runtime);
    let ours = Control::create(by_sleeper(&own), 1);
    let start = core.join(sleeps.client, by_broker(&own)).unwrap();
    while core.announcement(sleeps.client).is_some() {
        core.mark_sent(sleeps.client);
    }
    let inbound =
        ChainReader::new(limits, 0, vec![(0, by_sleeper(&first))], start, ours.clone(), 0).unwrap();
    let broker = Control::check(by_sleeper(&control), sleeps.cursor).unwrap();
    let mut link = Link::new(ours, broker, None, Some(inbound));
    // A release when it parks would make a second fence there.
    link.release();

    let bell = runtime.mailbox::<()>();
    let rung = bell.clone();
    let receives = runtime.spawn(move || {
        let mut received = 0;
        while received < messages {
            match link.poll().unwrap().0 {
                Event::Message(slot) => {
                    link.inbound_mut().unwrap().advance(&slot);
                    received += 1;
                }
                Event::Empty => {
                    if link.park(Interest { message: true, ..Interest::default() }).0 {
                        rung.wait();
                        link.unpark();
                    }
                }
                event => panic!("{event:?} within a page"),
            }
        }
    });
    for _ in 0..messages {
        sender.send(Envelope::default(), &[7; 8]).unwrap();
        core.cycle();
        for action in core.take_actions() {
            assert_eq!(action, Action::Ring(sleeps.client));
            bell.put(());
        }
    }
    receives();
}

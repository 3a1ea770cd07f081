//! A release that is due: a receiver that neither sleeps nor reaches the end of a page must store its
//! cursor, because of the bytes of referenced payload that it has passed.

use super::{COPIED, Lives, refer};
use crate::scenario::chain::PAYLOAD;
use crate::scenario::{Mailbox, Runtime};

/// A release is due after `due` messages. As many later ones need their pages. The broker, and the
/// sender in its thread, sleep until the receiver makes the release. What the receiver reads is not
/// overwritten meanwhile. [P8 P9 P10]
pub fn release<R: Runtime>(runtime: &R, due: u64) {
    let (mut sender, mut broker, mut receiver) = refer(runtime, COPIED, &Lives::endless()).unwrap();
    let messages = sender.next + due;
    receiver.take_in();
    let inbound = receiver.link.inbound_mut().unwrap();
    inbound.set_release_after(due as usize * PAYLOAD);
    let receives = runtime.spawn(move || {
        // The release comes when the message after these is polled.
        for _ in 0..=due {
            receiver.poll();
        }
        receiver
    });
    while sender.next < messages {
        // In this order: the broker's release is room for the sender.
        let worked = broker.cycle();
        if !sender.send() && !worked && broker.core.park() {
            broker.bell.wait();
            broker.core.unpark();
        }
    }
    let mut receiver = receives();
    while broker.cycle() {}
    while receiver.poll() {}
    assert_eq!(receiver.next, messages, "a message is lost");
}

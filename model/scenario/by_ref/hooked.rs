//! A hook that is set while messages are passed by reference. From then on the broker copies each
//! message and shows the copy to the hook.

use super::{Lives, Size, refer, run};
use crate::scenario::Runtime;
use crate::scenario::chain::payload;
use llmp::Message;
use llmp::core::broker::hook::Verdict;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The hook sees each message once, in order and whole, while the sender reuses its pages. [P3 P8]
pub fn hooked<R: Runtime>(runtime: &R, size: Size) {
    let lives = Lives::endless();
    let mut three = refer(runtime, size.by_ref, &lives).unwrap();
    let (sender, broker, _) = &mut three;
    let next = Arc::new(AtomicU64::new(sender.next));
    let shown = next.clone();
    broker.core.set_hook(Box::new(move |message: &Message<'_>| {
        let number = shown.fetch_add(1, Ordering::Relaxed);
        assert_eq!(message.payload, payload(number), "torn, or mixed up");
        Verdict::Forward
    }));
    run(runtime, three, size, &lives);
    assert_eq!(next.load(Ordering::Relaxed), size.messages, "the hook has missed a message");
}

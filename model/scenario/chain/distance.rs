//! The reuse distance: a chain adds pages up to that length before it writes a page again.

use super::{Sending, Size, Step, finish, join};
use crate::scenario::Runtime;

/// A chain with a reuse distance of `bytes` and memory for `pages` pages, of which the receiver has
/// left the first. The first page that is reused is one of `expected` pages. [P8 P9]
pub fn reuse_distance<R: Runtime>(
    runtime: &R,
    size: Size,
    bytes: usize,
    pages: usize,
    expected: usize,
) {
    let mut sending = Sending::new(runtime, size.limits());
    sending.sender.set_reuse_distance(bytes);
    sending.most_pages = pages;
    let mut receiving = join(runtime, size.limits(), &mut sending, 0);
    for _ in 0..2 {
        assert_eq!(sending.send(), Step::Done);
        while receiving.step() == Step::Done {}
    }
    let thread = runtime.spawn(move || {
        for _ in 0..size.steps {
            receiving.step();
        }
        receiving
    });
    for _ in 0..size.messages {
        if sending.next() < size.messages {
            sending.send();
        }
    }
    finish(&mut sending, &mut [thread()], size.messages);
    assert_eq!(sending.first_reuse, Some(expected), "pages at the first reuse");
}

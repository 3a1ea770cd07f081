//! A sender and its receivers: commit, page rollover, reuse, joining, leaving, batches, crashes.

#[allow(dead_code, reason = "not every checker has it")]
pub mod distance;

use super::{Descriptors, Mailbox, Note, Runtime, Who};
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused, Start};
use llmp::core::control::Control;
use llmp::core::layout::{PAGE_HEADER, SLOT_HEADER, control_bytes, slot_len};
use llmp::core::memory::Memory;
use llmp::{ClientId, Envelope, Flags, Limits};

/// Payload of a model's message in bytes. Pages have room for an origin, even if no message has one. So
/// this is the least number of words with which a page can hold one message and not two.
pub const PAYLOAD: usize = 24;

/// The client that owns the chain.
pub const OWNER: u32 = 7;

/// The processes in a recorded run.
const SENDER: Who = 0;

fn who(receiver: u32) -> Who {
    receiver as Who + 1
}

/// Returns limits of a chain whose pages hold `messages` messages each and whose budget is `pages`
/// pages.
pub fn limits(messages: usize, pages: usize) -> Limits {
    let slot = slot_len(PAYLOAD, false).unwrap();
    // A page must also have room for one message with an origin.
    let slots = (messages * slot).max(slot_len(PAYLOAD, true).unwrap());
    assert_eq!(slots / slot, messages, "a page has room for another number of messages");
    let page_len = PAGE_HEADER + slots + SLOT_HEADER;
    Limits::new(page_len, PAYLOAD, pages * page_len).unwrap()
}

/// Returns a region that holds exactly a control region with one cursor.
pub fn control_memory<R: Runtime>(runtime: &R) -> R::Memory {
    // Only what is used; a whole page of the kernel would be hundreds of words.
    runtime.memory(control_bytes(1))
}

pub fn payload(number: u64) -> [u8; PAYLOAD] {
    let word = (number ^ 0x5a5a_0000_1234_5678).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = [word, word.rotate_left(8), word.rotate_left(16)].map(u64::to_le_bytes);
    core::array::from_fn(|i| words[i / 8][i % 8])
}

pub fn envelope(number: u64) -> Envelope {
    Envelope::tagged(number as u32).with_flags(Flags(number as u16)).with_sender(ClientId(7))
}

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Done,
    Nothing,
}

/// How a process sees a region: directly, or through memory that can crash or forge words.
pub type View<P, M> = Box<dyn Fn(P) -> M + Send>;

/// A sender with its end of the connections.
pub struct Sending<R: Runtime, M: Memory> {
    runtime: R,
    sender: ChainWriter<M>,
    /// Destination of the descriptors for receiver `id`.
    sockets: Vec<(u32, Descriptors<R::Memory>)>,
    /// How the sender sees a region that it creates.
    own: View<R::Memory, M>,
    /// The same regions as they are shared.
    regions: Vec<(u32, R::Memory)>,
    next_page: u32,
    next: u64,
    /// Pages that there is memory for, and those that there were when one was reused first.
    most_pages: usize,
    first_reuse: Option<usize>,
}

impl<R: Runtime> Sending<R, R::Memory> {
    pub fn new(runtime: &R, limits: Limits) -> Self {
        let seen_by = runtime.clone();
        Self::with(runtime, limits, Box::new(move |memory| seen_by.seen_by(&memory, SENDER)))
    }
}

impl<R: Runtime, M: Memory> Sending<R, M> {
    pub fn with(runtime: &R, limits: Limits, own: View<R::Memory, M>) -> Self {
        let first = runtime.memory(limits.page_len());
        runtime.note(Note::Born { who: SENDER });
        Sending {
            runtime: runtime.clone(),
            sender: ChainWriter::new(OWNER, limits, own(first.clone())),
            sockets: Vec::new(),
            own,
            regions: vec![(0, first)],
            next_page: 1,
            next: 0,
            most_pages: usize::MAX,
            first_reuse: None,
        }
    }

    /// Admits a receiver. `control` is its control region as the sender sees it.
    pub fn admit(&mut self, id: u32, control: M, socket: Descriptors<R::Memory>) -> Start {
        let start = self.sender.admit(id, Control::check(control, 0).unwrap(), 0);
        let Start { page, position, message: number } = start;
        let (chain, by) = (SENDER, who(id));
        self.runtime.note(Note::Admitted { chain, by, page, position, number });
        self.sockets.push((id, socket));
        self.announce();
        start
    }

    pub fn remove_receiver(&mut self, id: u32) {
        self.runtime.note(Note::Ended { who: who(id) });
        self.runtime.note(Note::ReceiverRemoved { who: who(id) });
        self.sender.remove_receiver(id);
    }

    /// Skips a receiver, which reads on and may be admitted again.
    #[allow(dead_code, reason = "not every checker skips one")]
    pub fn skip_receiver(&mut self, id: u32) {
        self.sockets.retain(|(receiver, _)| *receiver != id);
        self.sender.remove_receiver(id);
    }

    /// Retires the pages that a removed receiver may read in place.
    #[allow(dead_code, reason = "not every checker removes one that reads on")]
    pub fn retire(&mut self) {
        self.sender.retire();
    }

    fn announce(&mut self) {
        for (id, socket) in &self.sockets {
            while let Some(announcement) = self.sender.announcement(*id) {
                if let Announcement::Page(page) = announcement {
                    self.runtime.note(Note::Sent { chain: SENDER, page, to: who(*id) });
                    let region = self.regions.iter().find(|(known, _)| *known == page).unwrap();
                    socket.send(page, region.1.clone());
                }
                self.sender.mark_sent(*id);
            }
        }
    }

    /// Appends the next message to the pending batch.
    pub fn append(&mut self) -> Step {
        loop {
            match self.sender.append(envelope(self.next), &payload(self.next)) {
                Ok(()) => {
                    self.next += 1;
                    if self.first_reuse.is_none() && self.sender.stats().reuses > 0 {
                        self.first_reuse = Some(self.regions.len());
                    }
                    return Step::Done;
                }
                Err(Refused::Blocked(Blocked::NeedPage(_)))
                    if self.regions.len() == self.most_pages =>
                {
                    if !self.sender.stop_growing() {
                        return Step::Nothing;
                    }
                }
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    let region = self.runtime.memory(len);
                    self.regions.push((self.next_page, region.clone()));
                    self.next_page += 1;
                    self.sender.add_page((self.own)(region));
                    let there = |(id, _): &&(u32, _)| self.sender.page(*id).is_some();
                    let pages = self.regions.iter().filter(there);
                    let pages = pages.map(|(id, page)| (*id, page.region_len())).collect();
                    self.runtime.note(Note::Pool { chain: SENDER, pages });
                    self.announce();
                }
                Err(Refused::Blocked(_)) => {
                    assert!(self.sender.take_fault().is_none(), "a correct cursor was invalid");
                    return Step::Nothing;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    pub fn publish(&mut self) {
        self.sender.publish();
    }

    /// Claims room for a message and drops the claim. A page rollover for it remains.
    pub fn drop_claim(&mut self) {
        drop(self.sender.claim(envelope(self.next), PAYLOAD));
        self.publish();
    }

    /// Sends the next message if there is room.
    pub fn send(&mut self) -> Step {
        let step = self.append();
        if step == Step::Done {
            self.publish();
        }
        step
    }

    /// Returns the number of the next message.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn is_consumed(&mut self) -> bool {
        self.sender.is_consumed()
    }
}

/// A receiver with its end of the connection. It checks every message.
pub struct Receiving<M: Memory, P: Memory> {
    receiver: ChainReader<M>,
    socket: Descriptors<P>,
    /// How the receiver sees a page that arrives.
    view: View<P, M>,
    next: u64,
}

impl<M: Memory, P: Memory> Receiving<M, P> {
    /// Returns a receiver that was admitted at `start`. `control` is its own region as it sees it.
    pub fn new(
        limits: Limits,
        control: Control<M>,
        socket: Descriptors<P>,
        start: Start,
        view: View<P, M>,
    ) -> Self {
        let mut pages = Vec::new();
        while let Some((id, page)) = socket.receive() {
            pages.push((id, view(page)));
        }
        let receiver = ChainReader::new(limits, OWNER, pages, start, control, 0).unwrap();
        Receiving { receiver, socket, view, next: start.message }
    }

    /// Takes one step.
    pub fn step(&mut self) -> Step {
        match self.receiver.poll().expect("an honest sender makes no fault") {
            Event::Empty => return Step::Nothing,
            Event::PageAdvanced => {
                self.receiver.release();
            }
            Event::Message(slot) => {
                let mut copy = [0; PAYLOAD];
                self.receiver.read(&slot, &mut copy);
                assert_eq!(copy, payload(self.next), "payload of message {}", self.next);
                assert_eq!(self.receiver.envelope(&slot), envelope(self.next));
                assert_eq!(self.receiver.next_message(), self.next);
                self.receiver.advance(&slot);
                self.next += 1;
            }
            Event::Unknown(page) => {
                let mut found = false;
                while let Some((id, memory)) = self.socket.receive() {
                    found |= id == page;
                    self.receiver.add_page(id, (self.view)(memory)).unwrap();
                }
                assert!(found, "page {page} was named before it was sent");
            }
        }
        Step::Done
    }

    /// Returns the number of the next message.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn release(&mut self) {
        self.receiver.release();
    }
}

type Plain<R> = Receiving<<R as Runtime>::Memory, <R as Runtime>::Memory>;

/// Returns a receiver's control region, as the receiver sees it and as the sender does.
fn controls<R: Runtime>(runtime: &R, id: u32) -> (Control<R::Memory>, R::Memory) {
    let memory = control_memory(runtime);
    runtime.note(Note::Born { who: who(id) });
    runtime.is_control(&memory, who(id));
    (Control::create(runtime.seen_by(&memory, who(id)), 1), runtime.seen_by(&memory, SENDER))
}

/// Returns how receiver `id` sees a page that arrives.
fn view<R: Runtime>(runtime: &R, id: u32) -> View<R::Memory, R::Memory> {
    let runtime = runtime.clone();
    Box::new(move |page| runtime.seen_by(&page, who(id)))
}

/// Admits a receiver before the sender begins.
pub fn join<R: Runtime>(
    runtime: &R,
    limits: Limits,
    sending: &mut Sending<R, R::Memory>,
    id: u32,
) -> Plain<R> {
    let (control, memory) = controls(runtime, id);
    let socket = Descriptors::default();
    let start = sending.admit(id, memory, socket.clone());
    Receiving::new(limits, control, socket, start, view(runtime, id))
}

/// Runs all processes in turn until none can continue.
pub fn finish<R: Runtime, M: Memory>(
    sending: &mut Sending<R, M>,
    receivers: &mut [Plain<R>],
    messages: u64,
) {
    loop {
        let mut step = Step::Nothing;
        if sending.next() < messages {
            step = sending.send();
        }
        for receiving in receivers.iter_mut() {
            while receiving.step() == Step::Done {
                step = Step::Done;
            }
        }
        if step == Step::Nothing {
            break;
        }
    }
    assert_eq!(sending.next(), messages, "the sender is stuck");
    for receiving in receivers.iter_mut() {
        assert_eq!(receiving.next(), messages, "a message is lost");
        receiving.release();
    }
    assert!(sending.is_consumed());
    sending.runtime.note(Note::Finished);
}

/// The size of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Messages that fit into a page.
    pub messages_per_page: usize,
    /// Pages that the budget allows.
    pub pages: usize,
    pub messages: u64,
    pub receivers: usize,
    /// Steps of each receiver while the others run.
    pub steps: usize,
}

impl Size {
    pub fn limits(&self) -> Limits {
        limits(self.messages_per_page, self.pages)
    }
}

/// A sender and receivers that were admitted before it began. [P1 P3 P8]
pub fn deliver<R: Runtime>(runtime: &R, size: Size) {
    let mut sending = Sending::new(runtime, size.limits());
    let receivers: Vec<Plain<R>> = (0..size.receivers)
        .map(|id| join(runtime, size.limits(), &mut sending, id as u32))
        .collect();
    let threads: Vec<_> = receivers
        .into_iter()
        .map(|mut receiving| {
            runtime.spawn(move || {
                for _ in 0..size.steps {
                    receiving.step();
                }
                receiving
            })
        })
        .collect();
    for _ in 0..size.messages + 1 {
        if sending.next() < size.messages {
            sending.send();
        }
    }
    let mut receivers: Vec<_> = threads.into_iter().map(|join| join()).collect();
    finish(&mut sending, &mut receivers, size.messages);
}

/// A receiver that has released everything before the end-of-page message of its page, while the
/// sender is about to reuse that page. [P8]
#[allow(dead_code, reason = "not every checker has it")]
pub fn reuse_behind_end_of_page<R: Runtime>(runtime: &R, size: Size) {
    let mut sending = Sending::new(runtime, size.limits());
    let mut receiving = join(runtime, size.limits(), &mut sending, 0);
    for _ in 0..size.messages_per_page {
        sending.send();
        receiving.step();
    }
    receiving.release();
    for _ in size.messages_per_page..size.messages_per_page * size.pages {
        assert_eq!(sending.send(), Step::Done);
    }
    let thread = runtime.spawn(move || {
        for _ in 0..size.steps {
            receiving.step();
        }
        receiving
    });
    while sending.next() < size.messages && sending.send() == Step::Done {}
    finish(&mut sending, &mut [thread()], size.messages);
}

/// A sender that claims more than it sends, so that messages name empty pages. [P3 P8]
pub fn drop_claims<R: Runtime>(runtime: &R, size: Size) {
    let mut sending = Sending::new(runtime, size.limits());
    let mut receiving = join(runtime, size.limits(), &mut sending, 0);
    let thread = runtime.spawn(move || {
        for _ in 0..size.steps {
            receiving.step();
        }
        receiving
    });
    for _ in 0..size.messages + 1 {
        if sending.next() < size.messages {
            sending.send();
            sending.drop_claim();
        }
    }
    finish(&mut sending, &mut [thread()], size.messages);
}

/// A receiver that is admitted while the sender advances and reuses pages. [P3 P8]
pub fn join_during_reuse<R: Runtime>(runtime: &R, size: Size, joins_after: u64) {
    let mut sending = Sending::new(runtime, size.limits());
    let mut first = join(runtime, size.limits(), &mut sending, 0);
    // Its own region and connection. It begins when it learns its start.
    let (control, memory) = controls(runtime, 1);
    let socket: Descriptors<R::Memory> = Descriptors::default();
    let start = runtime.mailbox::<Start>();

    let first = runtime.spawn(move || {
        for _ in 0..size.steps {
            first.step();
        }
        first
    });
    let late = {
        let (socket, start, view) = (socket.clone(), start.clone(), view(runtime, 1));
        runtime.spawn(move || {
            let start = start.wait();
            let mut late = Receiving::new(size.limits(), control, socket, start, view);
            for _ in 0..size.steps {
                late.step();
            }
            (start, late)
        })
    };
    let mut memory = Some(memory);
    for i in 0..size.messages + 2 {
        if sending.next() < size.messages {
            sending.send();
        }
        if i + 1 >= joins_after
            && let Some(memory) = memory.take()
        {
            start.put(sending.admit(1, memory, socket.clone()));
        }
    }
    let first = first();
    let (start, late) = late();
    assert!(start.message >= 1, "it was to join late");
    finish(&mut sending, &mut [first, late], size.messages);
}

/// A receiver that leaves for good while the sender advances and reuses pages. [P8]
pub fn leave_during_reuse<R: Runtime>(runtime: &R, size: Size) {
    let mut sending = Sending::new(runtime, size.limits());
    let mut stays = join(runtime, size.limits(), &mut sending, 0);
    let mut leaves = join(runtime, size.limits(), &mut sending, 1);
    let hang_up = runtime.mailbox::<()>();
    let stays = runtime.spawn(move || {
        for _ in 0..size.steps {
            stays.step();
        }
        stays
    });
    let gone = {
        let hang_up = hang_up.clone();
        runtime.spawn(move || {
            leaves.step();
            drop(leaves);
            hang_up.put(());
        })
    };
    let mut notified = false;
    for _ in 0..size.messages + 1 {
        if sending.next() < size.messages && sending.send() == Step::Nothing && !notified {
            notified = hang_up.take().is_some();
            if notified {
                sending.remove_receiver(1);
            }
        }
    }
    gone();
    if !notified {
        hang_up.take().expect("it has hung up");
        sending.remove_receiver(1);
    }
    let stays = stays();
    finish(&mut sending, &mut [stays], size.messages);
}

/// A batch over a page rollover: a receiver that sees the first message sees them all. [P1 P3]
pub fn batch<R: Runtime>(runtime: &R, size: Size) {
    let mut sending = Sending::new(runtime, size.limits());
    let mut receiving = join(runtime, size.limits(), &mut sending, 0);
    let messages = size.messages;
    let thread = runtime.spawn(move || {
        for _ in 0..size.steps {
            receiving.step();
            if receiving.next() > 0 {
                while receiving.next() < messages {
                    assert_eq!(receiving.step(), Step::Done, "a batch that is visible in part");
                }
            }
        }
        receiving
    });
    for _ in 0..messages {
        assert_eq!(sending.append(), Step::Done);
    }
    sending.publish();
    finish(&mut sending, &mut [thread()], messages);
}

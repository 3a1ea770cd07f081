//! The peers, each in the form that its documentation recommends for this work.

pub mod bus;
pub mod crossbeam;
pub mod iceoryx;
pub mod ipc_channel;
pub mod ipmpsc;
pub mod kernel;
pub mod ll_mp;
pub mod ll_mp_bus;
pub mod llmp;
mod meet;
pub mod rtrb;
pub mod shmem_ipc;

use crate::peer::Waiting;

/// The name and abilities of a peer.
pub struct Info {
    pub name: &'static str,
    /// Both ends live in one process: an upper bound.
    pub one_process: bool,
    /// Has a call for several messages at once.
    pub batches: bool,
    /// Lets a message be written where it will lie, so that not every byte has to be.
    pub in_place: bool,
    pub polls: bool,
    pub sleeps: bool,
    /// How it waits at full throughput.
    pub stream: Waiting,
    /// The longest message in bytes.
    pub max_len: usize,
}

const BETWEEN_PROCESSES: Info = Info {
    name: "",
    one_process: false,
    batches: false,
    in_place: false,
    polls: true,
    sleeps: true,
    stream: Waiting::Poll,
    max_len: usize::MAX,
};

/// Whose every call is a system call: to wait in it costs least.
const KERNEL: Info = Info { stream: Waiting::Sleep, ..BETWEEN_PROCESSES };

impl Info {
    pub fn waits(&self, waiting: Waiting) -> bool {
        if waiting == Waiting::Sleep { self.sleeps } else { self.polls }
    }
}

pub const PEERS: &[Info] = &[
    Info { name: "llmp", batches: true, ..BETWEEN_PROCESSES },
    Info { name: "llmp-borrow", batches: true, in_place: true, ..BETWEEN_PROCESSES },
    Info { name: "ll_mp", sleeps: false, ..BETWEEN_PROCESSES },
    Info { name: "iceoryx2", in_place: true, ..BETWEEN_PROCESSES },
    Info { name: "ipmpsc", ..BETWEEN_PROCESSES },
    Info { name: "shmem-ipc", batches: true, in_place: true, ..BETWEEN_PROCESSES },
    Info { name: "ipc-channel", ..KERNEL },
    Info { name: "unix-stream", batches: true, ..KERNEL },
    // A packet must fit into the socket's buffer.
    Info { name: "unix-seqpacket", max_len: 65536, ..KERNEL },
    Info { name: "pipe", batches: true, ..KERNEL },
    Info { name: "rtrb", one_process: true, batches: true, sleeps: false, ..BETWEEN_PROCESSES },
    Info { name: "crossbeam", one_process: true, ..BETWEEN_PROCESSES },
];

/// The lengths of messages in bytes. Some peers want them at compile time.
pub const LENGTHS: [usize; 8] = [8, 64, 256, 1024, 4096, 8192, 65536, 1 << 20];

/// Calls a generic function with the type of a peer.
#[macro_export]
macro_rules! with_peer {
    ($name:expr, $len:expr, $function:ident($($argument:expr),*)) => {{
        use $crate::peers::*;
        match ($name, $len) {
            ("llmp" | "llmp-borrow", _) => $function::<llmp::Channel>($($argument),*),
            ("ll_mp", _) => $function::<ll_mp::Chain>($($argument),*),
            ("iceoryx2", _) => $function::<iceoryx::Topic>($($argument),*),
            ("ipmpsc", _) => $function::<ipmpsc::Ring>($($argument),*),
            ("ipc-channel", _) => $function::<ipc_channel::Bytes>($($argument),*),
            ("unix-stream", _) => $function::<kernel::UnixStreams>($($argument),*),
            ("unix-seqpacket", _) => $function::<kernel::Seqpackets>($($argument),*),
            ("pipe", _) => $function::<kernel::Pipes>($($argument),*),
            ("rtrb", _) => $function::<rtrb::Bytes>($($argument),*),
            ("shmem-ipc", 8) => $function::<shmem_ipc::Ring<8>>($($argument),*),
            ("shmem-ipc", 64) => $function::<shmem_ipc::Ring<64>>($($argument),*),
            ("shmem-ipc", 256) => $function::<shmem_ipc::Ring<256>>($($argument),*),
            ("shmem-ipc", 1024) => $function::<shmem_ipc::Ring<1024>>($($argument),*),
            ("shmem-ipc", 4096) => $function::<shmem_ipc::Ring<4096>>($($argument),*),
            ("shmem-ipc", 8192) => $function::<shmem_ipc::Ring<8192>>($($argument),*),
            ("shmem-ipc", 65536) => $function::<shmem_ipc::Ring<65536>>($($argument),*),
            ("shmem-ipc", 1048576) => $function::<shmem_ipc::Ring<1048576>>($($argument),*),
            ("crossbeam", 8) => $function::<crossbeam::Channel<[u8; 8]>>($($argument),*),
            ("crossbeam", 64) => $function::<crossbeam::Channel<[u8; 64]>>($($argument),*),
            ("crossbeam", 256) => $function::<crossbeam::Channel<[u8; 256]>>($($argument),*),
            ("crossbeam", _) => $function::<crossbeam::Channel<Box<[u8]>>>($($argument),*),
            (name, len) => anyhow::bail!("no peer {name} with messages of {len} bytes"),
        }
    }};
}

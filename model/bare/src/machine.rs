//! What stands in for an operating system: the first instructions, memory, output and the end.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

// Sets the stack, lets the program use floating-point registers, and calls it.
global_asm!(
    ".section .text.start",
    ".global _start",
    "_start:",
    "ldr x0, =stack_top",
    "mov sp, x0",
    "mov x0, #(3 << 20)",
    "msr cpacr_el1, x0",
    "isb",
    "bl begin",
);

#[unsafe(no_mangle)]
extern "C" fn begin() -> ! {
    crate::main();
    exit(0)
}

/// The program's memory. What is freed is not used again: the program ends soon.
struct Heap {
    used: AtomicUsize,
    bytes: UnsafeCell<[u8; HEAP]>,
}

const HEAP: usize = 16 << 20;

#[global_allocator]
static MEMORY: Heap = Heap { used: AtomicUsize::new(0), bytes: UnsafeCell::new([0; HEAP]) };

// SAFETY: each byte is handed out once.
unsafe impl Sync for Heap {}

// SAFETY: `alloc` hands out aligned pieces that don't overlap, or null.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.bytes.get() as usize;
        let used = self.used.load(Ordering::Relaxed);
        let at = (start + used).next_multiple_of(layout.align());
        match at + layout.size() <= start + HEAP {
            // One processor runs, and nothing interrupts it.
            true => self.used.store(at + layout.size() - start, Ordering::Relaxed),
            false => return null_mut(),
        }
        at as *mut u8
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// Asks the debugger, or QEMU in its place, for something ("Semihosting for AArch64", Arm).
fn ask(operation: u64, argument: usize) {
    // SAFETY: the operations below read what the argument points to, and change no memory.
    unsafe {
        asm!("hlt #0xf000", inout("x0") operation => _, in("x1") argument, options(nostack));
    }
}

/// Writes a text to the terminal.
pub fn print(text: &str) {
    const WRITE_CHARACTER: u64 = 3;
    for byte in text.bytes() {
        ask(WRITE_CHARACTER, &raw const byte as usize);
    }
}

/// Ends the machine with an exit status.
pub fn exit(status: u64) -> ! {
    const EXIT: u64 = 0x18;
    const APPLICATION_EXIT: u64 = 0x20026;
    let arguments = [APPLICATION_EXIT, status];
    ask(EXIT, arguments.as_ptr() as usize);
    loop {
        core::hint::spin_loop();
    }
}

#![no_main]

use llmp_fuzz::handshake::Bus;
use std::sync::{LazyLock, Mutex};

/// Lives as long as the fuzzer, because a broker for every input would be too slow.
static BUS: LazyLock<Mutex<Bus>> = LazyLock::new(|| Mutex::new(Bus::new()));

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    BUS.lock().expect("no input has panicked before").run(input);
});

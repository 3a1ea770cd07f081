#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    llmp_fuzz::live_bus::run(input);
});

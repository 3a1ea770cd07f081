#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    llmp_fuzz::end_of_page::run(input);
});

#![no_main]
// This one writes the seeds of all.
libfuzzer_sys::fuzz_target!(
    init: lowbit_fuzz::write_seeds(),
    |data: &[u8]| lowbit_fuzz::targets::names::run(data)
);

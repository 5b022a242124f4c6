//! Safetensors headers: the input is the header's text, then a byte 255, then the data. The length
//! before it is right, so that mutations reach what comes after.

pub fn run(data: &[u8]) {
    super::model::run(&file(data));
}

/// The file that an input stands for.
pub fn file(data: &[u8]) -> Vec<u8> {
    let (header, rest) = match data.iter().position(|&byte| byte == 0xff) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    [&(header.len() as u64).to_le_bytes(), header, rest].concat()
}

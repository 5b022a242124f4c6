//! Multiplies a small matrix with whatever backends this crate was built with, and prints the
//! outcome: `multiplied` or the error of `Host::new`.

use lowbit::host::{Host, HostError};
use std::process::ExitCode;

/// Multiplies `[2, 40]` by an int8 `[3, 40]`. All values are small integers, so the result is
/// exact.
fn multiply(host: &Host) -> Result<(), Box<dyn std::error::Error>> {
    let (m, n, k) = (2, 3, 40);
    // Every row has 127 as its largest value, so that its scale is 1.
    let value = |i: usize| if i.is_multiple_of(k) { 127.0 } else { (i * 7 % 15) as f32 - 7.0 };
    let w: Vec<f32> = (0..n * k).map(value).collect();
    let x: Vec<f32> = (0..m * k).map(|i| (i * 5 % 9) as f32 - 4.0).collect();
    let weights = host.compress(&w, n, k, &"int8-channel".parse()?)?;
    let y = host.matmul(&x, m, &weights, None)?;
    for (row, y) in x.chunks(k).zip(y.chunks(n)) {
        for (column, y) in w.chunks(k).zip(y) {
            let expected: f32 = row.iter().zip(column).map(|(x, w)| x * w).sum();
            if *y != expected {
                return Err(format!("{y} instead of {expected}").into());
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let host = match Host::new() {
        Ok(host) => host,
        Err(error @ HostError::NoAdapter(_)) => {
            println!("NoAdapter: {error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match multiply(&host) {
        Ok(()) => {
            println!("multiplied by {:?}", host.adapter_info().backend);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

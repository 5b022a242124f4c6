//! Prints the public items of a crate, one per line and sorted, from its rustdoc JSON.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: lowbit-public-api RUSTDOC.json");
        return ExitCode::FAILURE;
    };
    // Implementations that every type has (`Send`, `From<T> for T`) tell nothing of this crate.
    let api = public_api::Builder::from_rustdoc_json(path)
        .sorted(true)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build();
    match api {
        Ok(api) => {
            api.items().for_each(|item| println!("{item}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot read the rustdoc JSON: {error}");
            ExitCode::FAILURE
        }
    }
}

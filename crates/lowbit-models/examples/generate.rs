//! Continues a text: `cargo run --release -p lowbit-models --example generate -- MODEL "Once upon a time"`.

use lowbit::host::Host;
use lowbit_models::device::{LoadOptions, Model, Sampling, SessionOptions};
use lowbit_models::text::{TextStream, Tokenizer};
use std::io::Write;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(prompt)) = (args.next(), args.next()) else {
        return Err("give a model and a prompt".into());
    };
    pollster::block_on(generate(&path, &prompt, 64))
}

/// Prints what follows the prompt: at most `most` tokens.
async fn generate(path: &str, prompt: &str, most: usize) -> Result<(), Box<dyn std::error::Error>> {
    // Weights as they are in the file, and f32 activations.
    let host = Arc::new(Host::new_async().await?);
    let model = Model::load(&host, path, &LoadOptions::default()).await?;
    let tokenizer = Tokenizer::open(path)?;
    tokenizer.check(model.blueprint())?;

    // Room for the prompt and what follows. All buffers and kernels are made here, and none later.
    let tokens = tokenizer.encode(prompt, true)?;
    let options = SessionOptions::default().with_slots(tokens.len() + most);
    let mut session = model.session(&options).await?;
    let sampling = Sampling::GREEDY;
    let mut token = session.prompt(&tokens, &sampling).await?;
    let mut stream = TextStream::new(false);
    for _ in 0..most {
        if tokenizer.ends().contains(&token) {
            break;
        }
        print!("{}", stream.push(&tokenizer, token)?);
        std::io::stdout().flush()?;
        token = session.next(&sampling).await?;
    }
    println!("{}", stream.finish());
    Ok(())
}

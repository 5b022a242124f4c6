//! What the driver and a peer's process say to each other, one JSON object a line, and what
//! peers written in Rust share: data, the check of a result, the loop that answers.
//!
//! A peer greets, prepares cases (weights, pipelines, a checked first run) and then times one
//! of them whenever it is asked to. `python/protocol.py` is the same for Python.

use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

/// How the products of a matmul are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    F32,
    F16,
    Int8,
}

/// `Y = X · Wᵀ`: X `[m, k]`, W `[n, k]` in a format that goes by the peer's own name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub format: String,
    pub activations: Activations,
}

/// A language model, and how much of it is timed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelCase {
    /// The path of a GGUF file.
    pub model: String,
    pub prompt_tokens: usize,
    pub decode_tokens: usize,
    /// Threads of what computes on the CPU.
    pub threads: usize,
}

/// What the driver asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Cases are numbered as they become ready.
    Prepare(Case),
    Time(usize),
    /// A peer has one model.
    Open(ModelCase),
    /// Read the prompt and decode.
    Generate,
}

/// What a peer says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Hello(Hello),
    Ready(Ready),
    /// Milliseconds of one matmul, the wait counted in.
    Ms(f64),
    /// The model is loaded and warm.
    Opened,
    Rates(Rates),
    Error(String),
}

/// How fast a model read its prompt and decoded. The first token comes with the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub prompt_tokens_per_s: f64,
    pub decode_tokens_per_s: f64,
}

/// Who a peer is, and what it runs on where it can tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub version: String,
    pub adapter: Option<String>,
    pub driver: Option<String>,
}

/// A case that was run once and found right.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Which kernel runs, where the peer can tell.
    pub kernel: Option<String>,
    /// How products are made on this adapter.
    pub activations: Activations,
}

/// Submits one matmul and waits for it.
pub type Run = Box<dyn FnMut() -> Result<(), Box<dyn Error>>>;

/// Answers the driver until it hangs up.
///
/// # Errors
/// A driver that is gone, or says what cannot be understood.
pub fn serve(
    hello: Hello,
    mut prepare: impl FnMut(&Case) -> Result<(Ready, Run), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut runs: Vec<(Run, usize)> = Vec::new();
    converse(hello, |request| match request {
        Request::Prepare(case) => {
            let (ready, run, calls) = prepare(&case).and_then(warm)?;
            runs.push((run, calls));
            Ok(Reply::Ready(ready))
        }
        Request::Time(at) => {
            let (run, calls) = runs.get_mut(at).ok_or("no such case was prepared")?;
            Ok(Reply::Ms(time(run, *calls)?))
        }
        Request::Open(_) | Request::Generate => Err("this peer runs no models".into()),
    })
}

/// Takes a token or several, at a position, and gives the one that is most likely to follow.
pub type Step = Box<dyn FnMut(&[u32], usize) -> Result<u32, Box<dyn Error>>>;

/// Decoded tokens of the run that is not timed.
const WARM: usize = 4;

/// Serves requests for a peer that runs a language model. `open` also returns the size of the vocabulary.
///
/// # Errors
/// As for [`serve`].
pub fn serve_model(
    hello: Hello,
    open: impl Fn(&ModelCase) -> Result<(u32, Step), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut opened: Option<(ModelCase, u32, Step)> = None;
    converse(hello, |request| match request {
        Request::Open(case) => {
            let (vocab, mut step) = open(&case)?;
            generate(&mut step, vocab, &ModelCase { decode_tokens: WARM, ..case.clone() })?;
            opened = Some((case, vocab, step));
            Ok(Reply::Opened)
        }
        Request::Generate => {
            let (case, vocab, step) = opened.as_mut().ok_or("no model was opened")?;
            Ok(Reply::Rates(generate(step, *vocab, case)?))
        }
        Request::Prepare(_) | Request::Time(_) => Err("this peer runs only models".into()),
    })
}

fn generate(step: &mut Step, vocab: u32, case: &ModelCase) -> Result<Rates, Box<dyn Error>> {
    let prompt = (0..case.prompt_tokens as u32).map(|at| at.wrapping_mul(SCRAMBLE) % vocab);
    let prompt: Vec<u32> = prompt.collect();
    let start = Instant::now();
    let mut token = step(&prompt, 0)?;
    let read = start.elapsed();
    for at in 1..case.decode_tokens {
        token = step(&[token], prompt.len() + at - 1)?;
    }
    let decoded = start.elapsed() - read;
    Ok(Rates {
        prompt_tokens_per_s: prompt.len() as f64 / read.as_secs_f64(),
        decode_tokens_per_s: (case.decode_tokens - 1) as f64 / decoded.as_secs_f64(),
    })
}

/// Makes tokens of a prompt pseudo-random: those that `lowbit bench --model` takes.
const SCRAMBLE: u32 = 2_654_435_761;

fn converse(
    hello: Hello,
    mut answer: impl FnMut(Request) -> Result<Reply, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    // The driver shows the last line of stderr: the whole panic must stand in it.
    std::panic::set_hook(Box::new(|panic| {
        let words: Vec<_> = panic.payload_as_str().unwrap_or("").split_whitespace().collect();
        eprintln!("panicked: {}", words.join(" "));
        std::process::exit(101);
    }));
    say(&Reply::Hello(hello))?;
    for line in std::io::stdin().lock().lines() {
        let request = serde_json::from_str(&line?)?;
        say(&answer(request).unwrap_or_else(|error| Reply::Error(error.to_string())))?;
    }
    Ok(())
}

fn say(reply: &Reply) -> Result<(), Box<dyn Error>> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(reply)?)?;
    Ok(stdout.flush()?)
}

/// Milliseconds that one timing should last: shorter matmuls are run several times, each
/// submitted and waited for.
const LEAST_MS: f64 = 2.0;

/// Runs a case twice more, and says how many calls one timing takes.
fn warm((ready, mut run): (Ready, Run)) -> Result<(Ready, Run, usize), Box<dyn Error>> {
    time(&mut run, 1)?;
    let calls = (LEAST_MS / time(&mut run, 1)?).clamp(1.0, 50.0).ceil() as usize;
    Ok((ready, run, calls))
}

fn time(run: &mut Run, calls: usize) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    for _ in 0..calls {
        run()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e3 / calls as f64)
}

/// Numbers evenly spread over −1…1.
pub fn uniform(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..count).map(|_| (random.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// Weights that a quantized format holds exactly, so that the reference needs no quantizer:
/// each is one of `levels` times its group's scale, a power of two. Every group begins with
/// the lowest and the highest level, from which quantizers take their scales.
pub fn weights_of(n: usize, k: usize, group: usize, levels: &[f32]) -> Vec<f32> {
    let mut random = Random(7);
    let mut w = Vec::with_capacity(n * k);
    while w.len() < n * k {
        let scale = 1.0 / (256u32 << (random.next() >> 32 & 3)) as f32;
        for i in 0..group {
            let level = match i {
                0 => 0,
                1 => levels.len() - 1,
                _ => (random.next() >> 33) as usize % levels.len(),
            };
            w.push(levels[level] * scale);
        }
    }
    w
}

/// Whole numbers as levels.
pub fn integers(range: std::ops::RangeInclusive<i8>) -> Vec<f32> {
    range.map(f32::from).collect()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Rows of Y that are checked, the last among them: all columns of each.
const CHECKED_ROWS: usize = 16;

/// Compares Y with sums in f64. The largest error, in units of Y's root mean square, may be
///
/// - 1e-4 for f32 products, where one wrong 4-bit or 8-bit code shows;
/// - 2e-1 for f16 products: where sums are f16 too, as in ggml and ONNX Runtime, 4096 terms
///   lose 1 to 2 %, and the worst of 2¹⁶ outputs 4.5 times that;
/// - 5e-2 for int8 products: X in −1…1 rounded to 1/127 is off by 0.4 % of its own root mean
///   square, and of 2¹⁶ outputs the worst by five times that. One group of 128 of 4096 columns
///   at twice its scale shifts outputs by 0.18, and the worst of them by 4.5 times that.
///
/// # Errors
/// A result that is further off, or of the wrong size.
pub fn check(case: &Case, x: &[f32], w: &[f32], y: &[f32]) -> Result<(), String> {
    let Case { m, n, k, .. } = *case;
    if y.len() != m * n {
        return Err(format!("wrong result: {} elements where {} are due", y.len(), m * n));
    }
    let tolerance = match case.activations {
        Activations::F32 => 1e-4,
        Activations::F16 => 2e-1,
        Activations::Int8 => 5e-2,
    };
    let (mut worst, mut squares, mut count) = (0.0f64, 0.0f64, 0);
    for row in (0..m).rev().step_by(m.div_ceil(CHECKED_ROWS)) {
        let x = &x[row * k..][..k];
        for (column, w) in w.chunks_exact(k).enumerate() {
            let exact = dot(x, w);
            let error = (f64::from(y[row * n + column]) - exact).abs();
            // `max` passes over NaN, which is as wrong as can be.
            worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
            squares += exact * exact;
            count += 1;
        }
    }
    let off = worst / (squares / f64::from(count)).sqrt();
    if off <= tolerance {
        return Ok(());
    }
    Err(format!("wrong result: off by {off:.1e} of its root mean square, {tolerance:.0e} allowed"))
}

/// In eight partial sums, which compilers turn into vectors.
fn dot(x: &[f32], w: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for (x, w) in x.chunks(8).zip(w.chunks(8)) {
        for (sum, (&x, &w)) in sums.iter_mut().zip(x.iter().zip(w)) {
            *sum += f64::from(x) * f64::from(w);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(activations: Activations) -> Case {
        Case { m: 20, n: 48, k: 256, format: "f32".into(), activations }
    }

    #[test]
    fn wrong_results_are_found() {
        let case = case(Activations::F32);
        let x = uniform(case.m * case.k, 1);
        let w = weights_of(case.n, case.k, 32, &integers(-8..=7));
        let product = |w: &[f32]| -> Vec<f32> {
            let rows = x.chunks(case.k).flat_map(|x| w.chunks(case.k).map(|w| dot(x, w) as f32));
            rows.collect()
        };
        let right = product(&w);
        assert_eq!(check(&case, &x, &w, &right), Ok(()));

        let mut code = w.clone();
        code[33] += w[32].abs() / 8.0;
        assert!(check(&case, &x, &w, &product(&code)).is_err());

        let int8 = Case { activations: Activations::Int8, ..case.clone() };
        let mut scale = w.clone();
        scale[64..96].iter_mut().for_each(|w| *w *= 2.0);
        assert!(check(&int8, &x, &w, &product(&scale)).is_err());

        for wrong in [f32::NAN, 0.0, f32::INFINITY] {
            let mut y = right.clone();
            y[19 * case.n + 5] = wrong;
            assert!(check(&int8, &x, &w, &y).is_err());
        }
        assert!(check(&case, &x, &w, &right[1..]).is_err());
    }

    #[test]
    fn models_read_the_prompt_and_then_token_by_token() {
        use std::{cell::RefCell, rc::Rc};
        let calls = Rc::new(RefCell::new(Vec::new()));
        let seen = calls.clone();
        let mut step: Step = Box::new(move |tokens, position| {
            seen.borrow_mut().push((tokens.to_vec(), position));
            Ok(position as u32)
        });
        let case =
            ModelCase { model: String::new(), prompt_tokens: 3, decode_tokens: 4, threads: 1 };
        let rates = generate(&mut step, 1000, &case).unwrap();
        assert!(rates.prompt_tokens_per_s > 0.0 && rates.decode_tokens_per_s > 0.0);
        // 2654435761 mod 1000, and twice that less 2³², mod 1000.
        let prompt = vec![0, 761, 226];
        let want = [(prompt, 0), (vec![0], 3), (vec![3], 4), (vec![4], 5)];
        assert_eq!(*calls.borrow(), want);
    }

    #[test]
    fn groups_hold_their_ends() {
        let w = weights_of(3, 64, 32, &integers(-127..=127));
        assert_eq!(w.len(), 192);
        for group in w.chunks(32) {
            assert_eq!(group[0], -group[1]);
            assert!(group.iter().all(|w| w.abs() <= group[1]));
        }
    }
}

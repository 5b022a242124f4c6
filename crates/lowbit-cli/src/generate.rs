//! `lowbit generate`: continues a text.

use crate::error::{CliError, warn};
use crate::model::{
    CacheArg, LinearLayers, Loaded, ModelArgs, adapter_name, failed, session_options, text_failed,
    warming,
};
use crate::report::{JsonArg, Report, bytes};
use crate::{Outcome, signals};
use lowbit_models::device::{RunError, Sampling, Session};
use lowbit_models::text::{ChatTemplate, Message, TextStream, Tokenizer};
use pollster::block_on;
use serde::Serialize;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// The most tokens that a session has room for unless --context says otherwise.
const CONTEXT: usize = 4096;

/// How often interrupts are looked for while a prompt is awaited.
const LOOK: Duration = Duration::from_millis(50);

/// Continue a text with a language model
///
/// The text is printed as it comes. Ctrl-C ends it, and everything that was generated stays. With --interactive it
/// ends the answer only; where a prompt is awaited it ends the command, as the end of the input does.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; with --chat, what the user says
    #[arg(long, value_name = "TEXT", required_unless_present = "interactive")]
    prompt: Option<String>,
    /// Generate at most so many tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Divide logits by this before a token is drawn. With 0 the most likely token is taken
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// With a temperature, draw from so many of the most likely tokens. The default is all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// With a temperature, draw from the most likely tokens whose probabilities sum up to this. The default is 1
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// With a temperature, draw the tokens of this seed, which are the same each time. The default is 0
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Write the prompt as the model's chat template says
    #[arg(long)]
    chat: bool,
    /// Read prompts from the terminal, one a line, and remember what was said
    #[arg(long)]
    interactive: bool,
    /// Tokens that there is room for. The default is what the model was made for, but at most 4096
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    cache: CacheArg,
    #[command(flatten)]
    json: JsonArg,
}

/// Why nothing more was generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Ended {
    /// The model ended the text.
    Eos,
    /// There are as many tokens as --max-tokens allows.
    MaxTokens,
    /// There is no more room, for the text or for the next prompt of a conversation.
    Context,
    /// An interrupt came.
    Interrupted,
}

impl Ended {
    /// Says it in a line of results.
    fn say(self) -> &'static str {
        match self {
            Self::Eos => "ended by the model",
            Self::MaxTokens => "cut after --max-tokens",
            Self::Context => "cut where the context is full",
            Self::Interrupted => "interrupted",
        }
    }
}

#[derive(Serialize)]
struct Result {
    text: String,
    tokens: usize,
    token_ids: Vec<u32>,
    /// Absent, as `null`, if nothing was generated.
    ended: Option<Ended>,
    prompt_tokens: usize,
    prompt_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    peak_device_bytes: u64,
    load_s: f64,
    warm_up_s: f64,
    weights: String,
    activations: String,
    linear_layers: LinearLayers,
    kv: String,
    adapter: String,
}

/// What one turn took.
#[derive(Default)]
struct Turn {
    text: String,
    prompt_tokens: usize,
    prompt_time: Duration,
    tokens: Vec<u32>,
    decode_time: Duration,
    ended: Option<Ended>,
}

impl Turn {
    fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt_time)
    }

    /// The first token comes with the prompt.
    fn decode_rate(&self) -> f64 {
        rate(self.tokens.len().saturating_sub(1), self.decode_time)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// Generates text.
pub fn run(args: &Args) -> std::result::Result<Outcome, CliError> {
    let report = Report::open(&args.json)?;
    let refuse = |error| failed(&args.model.model, "run", error);
    let sampling = sampling(args)?;
    let Loaded { model, load_time, linear_layers } = args.model.load()?;
    if model.blueprint().head.is_none() {
        let family = model.blueprint().family;
        let message =
            format!("`{}` makes no tokens: {family} is an encoder", args.model.model.display());
        return Err(
            CliError::new(message).hint("`lowbit embed` makes vectors of sentences with it")
        );
    }
    let tokenizer = args.model.tokenizer(&model)?;
    let template = if args.chat || args.interactive {
        let template = ChatTemplate::open(&args.model.model);
        Some(template.map_err(|error| {
            let error = text_failed("cannot chat", error);
            error.or_hint("a prompt is plain without --chat and --interactive")
        })?)
    } else {
        None
    };
    let cache = args.model.cache(&args.cache);
    let start = Instant::now();
    let options = session_options(&model, args.context, CONTEXT, cache);
    let mut session = block_on(model.session(&options)).map_err(refuse)?;
    warming(&model, || block_on(session.warm_up())).map_err(refuse)?;
    let warm_up = start.elapsed();
    signals::catch_interrupts();
    let mut talk = Talk { args, tokenizer: &tokenizer, template, sampling, messages: Vec::new() };
    let mut last = Turn::default();
    if let Some(prompt) = &args.prompt {
        talk.turn(&report, &mut session, prompt, &mut last)?;
    }
    let room = format!("the context of {} tokens is full", session.slots());
    if args.interactive {
        let lines = Lines::open()?;
        while last.ended != Some(Ended::Context)
            && let Some(line) = lines.next(&report)?
        {
            if !line.trim().is_empty() {
                talk.turn(&report, &mut session, line.trim_end(), &mut last)?;
            }
        }
    }
    if last.ended == Some(Ended::Context) {
        let what = if args.interactive { "ends the conversation" } else { "cuts the text" };
        warn(format!("{room}, which {what}; a larger --context has room for more"));
    }
    let peak = session.device_bytes();
    if std::io::stderr().is_terminal() {
        let line = format!(
            "{} tokens, {}; {:.1} tokens/s (prompt {:.1}), {} on {}; loaded in {:.1} s, warm after {:.1} s\n",
            last.tokens.len(),
            last.ended.map_or("nothing to continue", Ended::say),
            last.decode_rate(),
            last.prompt_rate(),
            bytes(peak),
            adapter_name(&model),
            load_time.as_secs_f64(),
            warm_up.as_secs_f64(),
        );
        // If stderr is closed, nobody can be told.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    let result = Result {
        prompt_tokens_per_s: last.prompt_rate(),
        decode_tokens_per_s: last.decode_rate(),
        tokens: last.tokens.len(),
        token_ids: last.tokens,
        ended: last.ended,
        prompt_tokens: last.prompt_tokens,
        text: last.text,
        peak_device_bytes: peak,
        load_s: load_time.as_secs_f64(),
        warm_up_s: warm_up.as_secs_f64(),
        weights: args.model.weights_name(),
        activations: args.model.activations_name(),
        linear_layers,
        kv: cache.to_string(),
        adapter: adapter_name(&model),
    };
    report.finish("", &result)?;
    Ok(Outcome::Fine)
}

/// The lines of stdin. A thread of their own reads them, so that an interrupt ends the wait for one.
struct Lines(Receiver<std::io::Result<String>>);

impl Lines {
    fn open() -> std::result::Result<Self, CliError> {
        // The thread reads one line ahead and then waits until that is taken.
        let (sender, lines) = sync_channel(0);
        let read = move || {
            loop {
                let mut line = String::new();
                let line = match std::io::stdin().lock().read_line(&mut line) {
                    Ok(0) => break,
                    Ok(_) => Ok(line),
                    Err(error) => Err(error),
                };
                let last = line.is_err();
                if sender.send(line).is_err() || last {
                    break;
                }
            }
        };
        let started = std::thread::Builder::new().name("prompts".to_owned()).spawn(read);
        started.map_err(|error| CliError::new("cannot read prompts").because(error))?;
        Ok(Self(lines))
    }

    /// Waits for a line. Returns nothing if an interrupt or the end of the input ends the conversation.
    fn next(&self, report: &Report) -> std::result::Result<Option<String>, CliError> {
        let is_terminal = std::io::stdin().is_terminal();
        if is_terminal {
            report.say("> ")?;
        }
        loop {
            if signals::answer_interrupt() {
                break;
            }
            match self.0.recv_timeout(LOOK) {
                Ok(Ok(line)) => return Ok(Some(line)),
                Ok(Err(error)) => {
                    return Err(CliError::new("cannot read the prompt").because(error));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if is_terminal {
            // What follows starts a line of its own.
            report.say("\n")?;
        }
        Ok(None)
    }
}

/// Returns how tokens are chosen, and warns of options that do nothing.
fn sampling(args: &Args) -> std::result::Result<Sampling, CliError> {
    let (top_k, top_p) = (args.top_k.unwrap_or(0), args.top_p.unwrap_or(1.0));
    let sampling = Sampling::new(args.temperature, top_k, top_p, args.seed.unwrap_or(0));
    let sampling = sampling.map_err(|error| CliError::new("cannot sample").because(error))?;
    let given =
        [args.top_k.map(|_| "--top-k"), args.top_p.map(|_| "--top-p"), args.seed.map(|_| "--seed")];
    let given: Vec<&str> = given.into_iter().flatten().collect();
    if args.temperature == 0.0 && !given.is_empty() {
        let have = if given.len() == 1 { "has" } else { "have" };
        let given = given.join(" and ");
        warn(format!(
            "{given} {have} no effect: at temperature 0 the most likely token is taken; give a --temperature, \
             0.7 say"
        ));
    }
    Ok(sampling)
}

/// Makes a message of a conversation.
fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

/// A conversation.
struct Talk<'a> {
    args: &'a Args,
    tokenizer: &'a Tokenizer,
    /// The template of a chat; without it prompts are continued as they are.
    template: Option<ChatTemplate>,
    sampling: Sampling,
    messages: Vec<Message>,
}

impl Talk<'_> {
    /// Returns the tokens of a prompt: what is to be read after what the session has read.
    fn tokens(
        &mut self,
        session: &Session<'_>,
        prompt: &str,
    ) -> std::result::Result<(usize, Vec<u32>), CliError> {
        let refuse = |error| text_failed("cannot make tokens of the prompt", error);
        let Some(template) = &self.template else {
            let special = session.is_empty();
            return Ok((session.len(), self.tokenizer.encode(prompt, special).map_err(refuse)?));
        };
        self.messages.push(message("user", prompt));
        let text = template.render(&self.messages, true).map_err(refuse)?;
        let all = self.tokenizer.encode(&text, false).map_err(refuse)?;
        // The template writes the whole conversation; what the caches have of it stays.
        let kept = session.tokens().iter().zip(&all).take_while(|(a, b)| a == b).count();
        let kept = kept.min(all.len().saturating_sub(1));
        Ok((kept, all[kept..].to_vec()))
    }

    /// Reads a prompt and generates what follows, which becomes the last turn. If there is no room for a prompt of a
    /// conversation, only that is noted in the last turn.
    fn turn(
        &mut self,
        report: &Report,
        session: &mut Session<'_>,
        prompt: &str,
        last: &mut Turn,
    ) -> std::result::Result<(), CliError> {
        let path = &self.args.model.model;
        let refuse = |error| failed(path, "run", error);
        let (kept, tokens) = self.tokens(session, prompt)?;
        let (need, slots) = (kept.saturating_add(tokens.len()), session.slots());
        if need > slots {
            if !self.args.interactive {
                return Err(refuse(RunError::Full { need, slots }));
            }
            last.ended = Some(Ended::Context);
            return Ok(());
        }
        session.rewind(kept).map_err(refuse)?;
        let mut turn = Turn { prompt_tokens: tokens.len(), ..Turn::default() };
        let start = Instant::now();
        let first = self.read(session, &tokens).map_err(refuse)?;
        turn.prompt_time = start.elapsed();
        let start = Instant::now();
        let mut stream = TextStream::new(false);
        let mut ended = Ended::Interrupted;
        if let Some(mut token) = first {
            ended = loop {
                if self.tokenizer.ends().contains(&token) {
                    break Ended::Eos;
                }
                turn.tokens.push(token);
                let piece = stream.push(self.tokenizer, token);
                let piece = piece.map_err(|error| text_failed("cannot write a token", error))?;
                report.stream(&piece)?;
                turn.text.push_str(&piece);
                if turn.tokens.len() >= self.args.max_tokens as usize {
                    break Ended::MaxTokens;
                }
                if signals::interrupted() {
                    break Ended::Interrupted;
                }
                if session.len() >= slots {
                    break Ended::Context;
                }
                token = block_on(session.next(&self.sampling)).map_err(refuse)?;
            };
        }
        turn.ended = Some(ended);
        turn.decode_time = start.elapsed();
        // An interrupt ends this turn and nothing else.
        signals::answer_interrupt();
        let rest = stream.finish();
        turn.text.push_str(&rest);
        report.say(&format!("{rest}\n"))?;
        if first.is_none() {
            turn.prompt_tokens = session.len() - kept;
            self.messages.pop();
        } else if self.template.is_some() {
            self.messages.push(message("assistant", &turn.text));
        }
        *last = turn;
        Ok(())
    }

    /// Reads tokens, and returns the first one that follows. An interrupt ends this between two chunks, and then there
    /// is none.
    fn read(
        &self,
        session: &mut Session<'_>,
        tokens: &[u32],
    ) -> std::result::Result<Option<u32>, RunError> {
        let chunk = session.chunk().max(1);
        let (before, last) = tokens.split_at(tokens.len().saturating_sub(1) / chunk * chunk);
        for tokens in before.chunks(chunk) {
            if signals::interrupted() {
                return Ok(None);
            }
            block_on(session.extend(tokens))?;
        }
        block_on(session.prompt(last, &self.sampling)).map(Some)
    }
}

//! The options of `lowbit compress` that say how weights are made.

use lowbit::compress::layerwise::{LayerwiseError, Pattern as Sparsity};
use lowbit_models::layerwise::{ColumnOrder, Loops, Method, Treatment};
use lowbit_models::transform::Keep;
use std::path::PathBuf;

/// How weights are made.
#[derive(clap::Args)]
pub struct MethodArgs {
    /// How weights are made: rtn (rounding to nearest, the default), gptq, awq, sparsegpt, wanda or magnitude.
    /// gptq, awq, sparsegpt and wanda look at what layers take when the model reads the calibration text
    #[arg(long, value_name = "METHOD")]
    method: Option<Method>,
    /// Which weights are pruned: 2:4 and other N:M (N of every M are kept, M up to 16), or the part to prune, as in
    /// 0.5. 2:4 is stored compressed, others as zeros
    #[arg(long, value_name = "PATTERN", value_parser = parse_sparsity)]
    sparsity: Option<Sparsity>,
    /// The calibration text: for a language model windows are cut from it, for an encoder each line is a sample
    #[arg(long, value_name = "TEXT")]
    pub calibration: Option<PathBuf>,
    /// Use these statistics of what layers take, which `lowbit observe` wrote of this model, instead of running a
    /// text. They are of the layers as they are, not of what they take once those before them are compressed
    #[arg(long, value_name = "STATISTICS")]
    #[arg(conflicts_with_all = ["calibration", "rotate", "keep_rows", "keep_heads"])]
    pub statistics: Option<PathBuf>,
    /// Use at most this many samples. The default is 32 windows, or 512 lines
    #[arg(long, value_name = "N", requires = "calibration")]
    pub samples: Option<usize>,
    /// The tokens of a sample, at most
    #[arg(long, value_name = "N", default_value_t = 512, requires = "calibration")]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=65536))]
    pub sample_tokens: u32,
    /// The order in which gptq and sparsegpt take columns, and when they find scales: columns (as they are, scales of
    /// the weights as they were; the default), columns-updated (scales when a group is reached), activations (those
    /// with the largest inputs first, stored in that order) or activations-static (the same, stored as they are)
    #[arg(long, value_name = "ORDER")]
    order: Option<ColumnOrder>,
    /// What gptq and sparsegpt add to the diagonal of XᵀX, as a part of its mean. The default is 0.01
    #[arg(long, value_name = "PART")]
    damping: Option<f64>,
    /// Shrink the ranges of groups to where the error is least
    #[arg(long)]
    clip: bool,
    /// Where gptq and sparsegpt go through columns: auto (on the device, unless it is a software adapter), device
    /// (in f32) or host (in f64)
    #[arg(long, value_name = "WHERE", default_value = "auto", value_parser = parse_loops)]
    pub loops: Loops,
    /// Permute columns before pruning to 2:4, so that larger weights are kept
    #[arg(long)]
    permute: bool,
    /// Prune by one threshold for all weights instead of one for each, with --method magnitude and a part as
    /// --sparsity: layers with small weights lose more than others
    #[arg(long)]
    global: bool,
    /// Rotate the residual stream and the heads of values by Hadamard matrices first (QuaRot), so that no channel
    /// is much larger than others. The model computes the same. Another SEED draws other signs
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    pub rotate: Option<u64>,
    /// Cut rows out of feed-forward blocks first, those of the least magnitude, or with --calibration of the least
    /// output: the rows that stay, as a number or as a part such as 0.75
    #[arg(long, value_name = "KEEP", value_parser = parse_keep)]
    pub keep_rows: Option<Keep>,
    /// Cut attention heads out first: the heads that stay, as a number or as a part
    #[arg(long, value_name = "KEEP", value_parser = parse_keep)]
    pub keep_heads: Option<Keep>,
}

fn parse_keep(text: &str) -> Result<Keep, String> {
    match (text.parse::<usize>(), text.parse::<f64>()) {
        (Ok(count), _) if count > 0 => Ok(Keep::Count(count)),
        (Err(_), Ok(share)) if share > 0.0 && share <= 1.0 => Ok(Keep::Share(share)),
        _ => Err("give a number of 1 or more, or a part above 0 and at most 1".to_owned()),
    }
}

fn parse_sparsity(text: &str) -> Result<Sparsity, String> {
    text.parse().map_err(|error: LayerwiseError| error.to_string())
}

fn parse_loops(text: &str) -> Result<Loops, String> {
    match text {
        "auto" => Ok(Loops::Auto),
        "device" => Ok(Loops::Device),
        "host" => Ok(Loops::Host),
        _ => Err("it is none of auto, device and host".to_owned()),
    }
}

impl MethodArgs {
    /// Returns how the weights of one rule are made.
    pub fn treatment(&self) -> Treatment {
        let usual = Treatment::default();
        Treatment {
            method: self.method.unwrap_or_default(),
            sparsity: self.sparsity.unwrap_or(usual.sparsity),
            order: self.order.unwrap_or_default(),
            damping: self.damping.unwrap_or(usual.damping),
            clip: self.clip,
            permute: self.permute,
            global: self.global,
            ..usual
        }
    }

    /// Returns whether the model is to run, whatever the methods are.
    pub fn is_staged(&self) -> bool {
        self.calibration.is_some() || self.statistics.is_some() || self.changes()
    }

    /// Returns whether the model is changed before it is compressed.
    pub fn changes(&self) -> bool {
        self.rotate.is_some() || self.cuts()
    }

    /// Returns whether rows or heads are cut out of the model before it is compressed.
    pub fn cuts(&self) -> bool {
        self.keep_rows.is_some() || self.keep_heads.is_some()
    }

    /// Describes these changes, and where columns are gone through if that was asked for, as comments of a recipe.
    pub fn comments(&self) -> String {
        let keep = |name: &str, keep: Option<Keep>| match keep {
            Some(Keep::Count(count)) => format!("# --{name} {count}\n"),
            Some(Keep::Share(share)) => format!("# --{name} {share:?}\n"),
            None => String::new(),
        };
        let rotate = self.rotate.map_or(String::new(), |seed| format!("# --rotate={seed}\n"));
        let loops = match self.loops {
            Loops::Auto => "",
            Loops::Device => "# --loops device\n",
            Loops::Host => "# --loops host\n",
        };
        let rows = keep("keep-rows", self.keep_rows);
        format!("{rows}{}{rotate}{loops}", keep("keep-heads", self.keep_heads))
    }
}

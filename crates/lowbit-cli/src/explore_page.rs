//! The page of an exploration: it has no scripts and loads nothing.

use crate::explore::Json;
use lowbit_models::explore::{Assessed, CandidateOfWeight};
use plotters::prelude::*;
use std::collections::BTreeMap;

/// Losses below this are drawn at this value, in per cent: the axis is logarithmic.
const FLOOR: f64 = 0.001;

/// Escapes text for HTML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns the page.
///
/// # Errors
/// Returns a sentence if a plot cannot be drawn.
pub fn page(json: &Json) -> Result<String, String> {
    let found = &json.found;
    let chosen = &found.chosen.assessed;
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>lowbit explore</title>\n<style>\n{}</style></head><body>\n\
         <h1>Levels of compression of {}</h1>\n\
         <p class=\"dim\">On {}. Calibration: {} samples of {}, {} tokens. Evaluation: {} samples of {}, {} tokens.</p>\n",
        include_str!("explore.css"),
        escape(&json.model),
        escape(&json.adapter),
        json.calibration.samples,
        escape(&json.calibration.file),
        json.calibration.tokens,
        json.eval.samples,
        escape(&json.eval.file),
        json.eval.tokens,
    );
    page.push_str(&format!(
        "<p class=\"verdict\">Chosen ({}): {:.2} MB, {:.2} bits a weight, loss {:.3} %, {:.3} ms for a token</p>\n\
         <p>The {} of the model as it is, is {:.4}, and its tensors take {:.2} MB. A loss is in per cent of that metric. \
         The chosen recipe was applied layer by layer, each layer with the inputs that it has in the compressed model; \
         put together as all others are, from weights that were compressed with the inputs of the model as it is, it \
         loses {:.3} %.</p>\n",
        escape(&json.limit),
        megabytes(chosen.bytes),
        chosen.bits_per_weight,
        chosen.loss,
        chosen.latency_ms,
        found.metric,
        found.value,
        megabytes(found.bytes),
        found.chosen.loss_put_together,
    ));
    page.push_str(
        "<h2>Accuracy against cost</h2>\n<p>Open circles are candidates that all weights have, small dots are mixed \
         recipes. The large dot is the chosen one, applied. A loss below 0.001 % is drawn there.</p>\n\
         <div class=\"plots\">\n",
    );
    let size = |assessed: &Assessed| megabytes(assessed.bytes);
    let read = |assessed: &Assessed| megabytes(assessed.bytes_per_token);
    let energy = |assessed: &Assessed| assessed.picojoules_per_token / 1e6;
    let latency = |assessed: &Assessed| assessed.latency_ms;
    // Latencies are no function of the size.
    for (title, axis, of, joined) in [
        ("Loss against size", "MB", &size as &dyn Fn(&Assessed) -> f64, true),
        ("Loss against measured latency", "ms for a token", &latency, false),
        ("Loss against bytes moved", "MB read for a token", &read, true),
        ("Loss against energy (derived, not measured)", "µJ for a token", &energy, true),
    ] {
        page.push_str(&format!("<figure>{}</figure>\n", scatter(json, (title, axis), of, joined)?));
    }
    page.push_str("</div>\n<p class=\"dim\">Energy is an estimate from bytes and operations and was not measured: 640 pJ \
                   for 32 bits from memory, 3.7 pJ for a multiplication of f32 and 0.9 pJ for an addition, and 0.2 pJ and \
                   0.1 pJ where inputs become int8 codes (Horowitz's table for 45 nm), as if one token were made at a time, so that each weight is read once for it. \
                   Products of attention are left out, which are the same in all recipes.</p>\n");
    page.push_str(&recipes(json));
    page.push_str(&heat_map(&found.candidates));
    page.push_str(&format!(
        "<h2>The chosen recipe</h2>\n<p>It is in <code>{}</code>. This makes the model:</p>\n<pre>{}</pre>\n\
         <pre>{}</pre>\n",
        escape(&json.recipe_file),
        escape(&json.command),
        escape(&chosen.recipe)
    ));
    if !found.left_out.is_empty() {
        page.push_str("<h2>What is left out of the search</h2>\n<ul>\n");
        for left_out in &found.left_out {
            let (name, why) = (escape(&left_out.name), escape(&left_out.why));
            page.push_str(&format!("<li><code>{name}</code>: {why}</li>\n"));
        }
        page.push_str("</ul>\n");
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

/// Draws loss against a cost. The mixed recipes may be joined by a line.
fn scatter(
    json: &Json,
    (title, axis): (&str, &str),
    of: &dyn Fn(&Assessed) -> f64,
    joined: bool,
) -> Result<String, String> {
    let found = &json.found;
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let point = |assessed: &Assessed| (of(assessed), assessed.loss.max(FLOOR));
    let uniform: Vec<(String, (f64, f64))> =
        found.uniform.iter().map(|a| (a.recipe.clone(), point(a))).collect();
    let mut mixed: Vec<(f64, f64)> = found.mixed.iter().map(point).collect();
    mixed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let chosen = point(&found.chosen.assessed);
    let all = || uniform.iter().map(|(_, p)| *p).chain(mixed.iter().copied()).chain([chosen]);
    let span = |values: &mut dyn Iterator<Item = f64>| {
        values.filter(|v| v.is_finite()).fold((f64::MAX, 0.0f64), |(l, h), v| (l.min(v), h.max(v)))
    };
    let (left, right) = span(&mut all().map(|point| point.0));
    let (low, high) = span(&mut all().map(|point| point.1));
    // Names stand to the right of their points.
    let gap = (right - left).max(right * 0.1) * 0.1;
    let x = (left - gap).max(0.0)..right + 4.0 * gap;
    let y = low / 1.5..high * 1.5;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (560, 360)).into_drawing_area();
        root.fill(&WHITE).map_err(|e| text(&e))?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d(x, y.log_scale())
            .map_err(|e| text(&e))?;
        chart.configure_mesh().x_desc(axis).y_desc("loss in %").draw().map_err(|e| text(&e))?;
        let blue = RGBColor(42, 111, 151);
        if joined {
            let line = LineSeries::new(mixed.iter().copied(), blue.stroke_width(2));
            chart.draw_series(line).map_err(|e| text(&e))?;
        }
        let dots = mixed.iter().map(|at| Circle::new(*at, 3, blue.filled()));
        chart.draw_series(dots).map_err(|e| text(&e))?;
        let circles = uniform.iter().map(|(_, at)| Circle::new(*at, 4, BLACK.stroke_width(1)));
        chart.draw_series(circles).map_err(|e| text(&e))?;
        let names = uniform
            .iter()
            .map(|(name, at)| (name.clone(), *at))
            .map(|(name, at)| EmptyElement::at(at) + Text::new(name, (7, -6), ("sans-serif", 10)));
        chart.draw_series(names).map_err(|e| text(&e))?;
        let dot = Circle::new(chosen, 6, RGBColor(200, 60, 50).filled());
        chart.draw_series([dot]).map_err(|e| text(&e))?;
        root.present().map_err(|e| text(&e))?;
    }
    Ok(svg)
}

/// The table of all recipes that were measured.
fn recipes(json: &Json) -> String {
    let found = &json.found;
    let mut out = String::from(
        "<h2>Recipes</h2>\n<div class=\"scroll\"><table><tr><th>recipe</th><th>MB</th><th>bits a weight</th>\
         <th>metric</th><th>loss in %</th><th>predicted in %</th><th>ms for a token</th><th>MB read for a token</th>\
         <th>µJ for a token (derived)</th></tr>\n",
    );
    let mut rows: Vec<(String, &Assessed)> =
        found.uniform.iter().map(|a| (format!("<code>{}</code>", escape(&a.recipe)), a)).collect();
    for assessed in &found.mixed {
        let recipe = escape(&assessed.recipe);
        rows.push((
            format!("<details><summary>mixed</summary><pre>{recipe}</pre></details>"),
            assessed,
        ));
    }
    rows.sort_by_key(|(_, assessed)| assessed.bytes);
    rows.push(("<strong>chosen, applied</strong>".into(), &found.chosen.assessed));
    for (name, assessed) in rows {
        out.push_str(&format!("<tr><td>{name}</td>"));
        for number in [
            format!("{:.2}", megabytes(assessed.bytes)),
            format!("{:.3}", assessed.bits_per_weight),
            format!("{:.4}", assessed.value),
            format!("{:.4}", assessed.loss),
            format!("{:.4}", assessed.predicted_loss),
            format!("{:.3}", assessed.latency_ms),
            format!("{:.2}", megabytes(assessed.bytes_per_token)),
            format!("{:.1}", assessed.picojoules_per_token / 1e6),
        ] {
            out.push_str(&format!("<td class=\"number\">{number}</td>"));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
    out
}

/// The map of weights and candidates, coloured by the predicted loss.
fn heat_map(candidates: &[CandidateOfWeight]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut weights: Vec<&str> = Vec::new();
    let mut cells: BTreeMap<(&str, &str), &CandidateOfWeight> = BTreeMap::new();
    for candidate in candidates {
        let (weight, name) = (candidate.weight.as_str(), candidate.candidate.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
        if weights.last() != Some(&weight) {
            weights.push(weight);
        }
        cells.insert((weight, name), candidate);
    }
    let log = |candidate: &CandidateOfWeight| candidate.predicted_loss.max(1e-6).log10();
    let positive = || candidates.iter().filter(|c| c.predicted_loss > 0.0).map(log);
    let (low, high) =
        positive().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    let mut out = String::from(
        "<h2>Weights and candidates</h2>\n<p>The number is the loss in per cent that is predicted of a weight alone, with \
         its share of what codes of its input lose; the darker, the larger, on a logarithmic scale. A frame marks the chosen candidate.</p>\n\
         <div class=\"scroll\"><table class=\"heat\"><tr><th>weight</th>",
    );
    for name in &names {
        out.push_str(&format!("<th>{}</th>", escape(name)));
    }
    out.push_str("</tr>\n");
    for weight in weights {
        out.push_str(&format!("<tr><th>{}</th>", escape(weight)));
        for name in &names {
            let Some(cell) = cells.get(&(weight, *name)) else {
                out.push_str("<td class=\"none\"></td>");
                continue;
            };
            let share = if cell.predicted_loss > 0.0 && high > low {
                100.0 * ((log(cell) - low) / (high - low)).clamp(0.0, 1.0)
            } else {
                0.0
            };
            let class = if cell.chosen { " class=\"chosen\"" } else { "" };
            out.push_str(&format!(
                "<td{class} style=\"--r:{share:.0}%\" title=\"{} bytes, output error {:.3} %\">{:.4}{}</td>",
                cell.bytes,
                100.0 * cell.output_error,
                cell.predicted_loss,
                if cell.chosen { " ✓" } else { "" }
            ));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table></div>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::TextJson;
    use lowbit_models::evaluate::Metric;
    use lowbit_models::explore::{Chosen, Exploration, LeftOut};

    fn assessed(recipe: &str, bytes: usize, loss: f64) -> Assessed {
        Assessed {
            recipe: recipe.into(),
            bytes,
            bits_per_weight: 4.0,
            value: 0.99,
            loss,
            predicted_loss: loss,
            latency_ms: 1.5,
            bytes_per_token: bytes / 2,
            picojoules_per_token: 1e7,
        }
    }

    fn json(weight: &str, uniform: Vec<Assessed>) -> Json {
        let text = || TextJson { file: "a<b>.txt".into(), samples: 2, tokens: 9 };
        let cell = |candidate: &str, chosen| CandidateOfWeight {
            weight: weight.into(),
            candidate: candidate.into(),
            bytes: 5,
            output_error: 0.1,
            predicted_loss: 0.25,
            chosen,
        };
        Json {
            model: "<script>alert(1)</script>".into(),
            adapter: "A & B".into(),
            calibration: text(),
            probing: text(),
            eval: text(),
            limit: "at most 2 MB".into(),
            recipe_file: "r.recipe.toml".into(),
            command: "lowbit compress".into(),
            seconds: 1.0,
            found: Exploration {
                metric: Metric::Cosine,
                value: 1.0,
                bytes: 4_000_000,
                elements: 8,
                chosen: Chosen {
                    assessed: assessed("[[rule]]\ntensors = [\"<w>\"]", 1_500_000, 0.5),
                    loss_put_together: 0.6,
                },
                uniform,
                mixed: vec![assessed("[[rule]]", 1_400_000, 0.7)],
                candidates: vec![cell("keep", false), cell("rtn:int8-channel", true)],
                left_out: vec![LeftOut { name: "<p>".into(), why: "it is small".into() }],
            },
        }
    }

    #[test]
    fn names_are_escaped_and_the_choice_is_marked() {
        let uniform =
            vec![assessed("keep", 4_000_000, 0.0), assessed("rtn:int8-channel", 1_000_000, 2.0)];
        let page = page(&json("w\"<i>", uniform)).unwrap();
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert!(page.contains("w&quot;&lt;i&gt;") && !page.contains("<i>"));
        assert!(page.contains("&lt;w&gt;") && !page.contains("<w>"));
        assert_eq!(page.matches("class=\"chosen\"").count(), 1);
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains("derived, not measured"));
        // Nothing is loaded from elsewhere.
        let without_namespaces = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!without_namespaces.contains("http") && !page.contains("url("));
    }

    /// A single point, and losses that are not above 0, can be drawn.
    #[test]
    fn few_points_are_drawn() {
        let mut json = json("w", vec![]);
        json.found.mixed.clear();
        json.found.chosen.assessed.loss = -0.5;
        assert_eq!(page(&json).unwrap().matches("<svg").count(), 4);
    }
}

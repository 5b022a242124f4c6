//! A report as a self-contained HTML page: it has no scripts, loads nothing, and contains the JSON.

mod matrix;

use super::report::{AdapterReport, CaseReport, Report, Speed, Status};
use crate::ops::matmul::first_part;
use matrix::matrices;

/// The largest number of cases that a list shows.
const LISTED: usize = 50;

/// Returns the HTML page of a report. Every case that it shows comes with the command that repeats
/// it.
///
/// # Errors
/// Returns an error if the report cannot be written as JSON.
pub fn page(report: &Report) -> Result<String, serde_json::Error> {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>lowbit conformance</title>\n<style>\n{}</style></head><body>\n\
         <h1>lowbit conformance</h1>\n\
         <p class=\"dim\">lowbit {}: every kernel is checked against a CPU reference in f64 with a proven error \
         bound. Integer results must be right in every bit.</p>\n",
        include_str!("style.css"),
        escape(&report.version)
    );
    for adapter in &report.adapters {
        page.push_str(&section(adapter));
    }
    // Browsers do not run a script of this type. Without `<`, the JSON cannot contain `</script>`.
    let json = serde_json::to_string(report)?.replace('<', "\\u003c");
    page.push_str(&format!("{OPENING}{json}{CLOSING}</body></html>\n"));
    Ok(page)
}

const OPENING: &str = "<script type=\"application/json\" id=\"lowbit-report\">";
const CLOSING: &str = "</script>\n";

/// Returns the JSON in a page, or `None` if the text is not such a page.
pub fn json_of(page: &str) -> Option<&str> {
    let (_, rest) = page.split_once(OPENING)?;
    rest.split_once(CLOSING).map(|(json, _)| json)
}

fn section(adapter: &AdapterReport) -> String {
    let AdapterReport { name, driver, backend, device_type, passed, failed, skipped, .. } = adapter;
    if let Some(error) = &adapter.error {
        let (name, error) = (escape(&adapter.full_name()), escape(error));
        return format!("<h2>{name}</h2>\n<p class=\"verdict bad\">no device: {error}</p>\n");
    }
    let unsteady: Vec<_> = adapter.unsteady().collect();
    let verdict = match (*failed, unsteady.len()) {
        (0, 0) => format!("<p class=\"verdict\">{passed} passed"),
        (failed, 0) => format!("<p class=\"verdict bad\">{failed} failed, {passed} passed"),
        (failed, unsteady) => format!(
            "<p class=\"verdict bad\">{failed} failed, {unsteady} with different bits in a second run, {passed} passed"
        ),
    };
    let mut out = format!(
        "<h2>{}</h2>\n<p class=\"dim\">{} · {} · {}{}</p>\n{verdict}, {skipped} skipped in {:.0} s</p>\n",
        escape(name),
        escape(driver),
        escape(backend),
        escape(device_type),
        escape(&adapter.options),
        adapter.seconds,
    );
    out.push_str(&failures(adapter));
    out.push_str(&repeats(adapter, &unsteady));
    out.push_str(
        "<h3>Error over bound</h3>\n<p class=\"key dim\"><span style=\"background:var(--good)\">0</span>\
         <span style=\"background:var(--near)\">1, the bound</span>\
         <span style=\"background:var(--exact)\">exact: every bit</span>\
         <span style=\"background:var(--bad);color:#fff\">beyond</span>\
         Each cell shows the worst of its cases. Open it for the name of that case and the command that repeats it.</p>\n",
    );
    out.push_str(&matrices(adapter));
    out.push_str(&skips(adapter));
    if let Some(speed) = &adapter.speed {
        out.push_str(&speeds(speed));
    }
    out.push_str(&facts(adapter));
    out
}

fn failures(adapter: &AdapterReport) -> String {
    let failed = adapter.cases.iter().filter(|case| case.status == Status::Fail);
    let items: Vec<String> = failed
        .take(LISTED)
        .map(|case| {
            let reason = case.reason.as_deref().unwrap_or("no reason given");
            let (reason, kernel) = (escape(reason), escape(&case.kernel));
            format!(
                "<li>{} <span class=\"dim\">[{kernel}]</span><br>{reason}</li>\n",
                line(adapter, case)
            )
        })
        .collect();
    list("Failures", &items, adapter.failed)
}

fn repeats(adapter: &AdapterReport, unsteady: &[&CaseReport]) -> String {
    let twice = adapter.cases.iter().filter(|case| case.repeats.is_some()).count();
    if twice == 0 {
        return String::new();
    }
    if unsteady.is_empty() {
        return format!("<p>{twice} cases ran twice and gave the same bits both times.</p>\n");
    }
    let items: Vec<String> = unsteady
        .iter()
        .take(LISTED)
        .map(|case| format!("<li>{}</li>\n", line(adapter, case)))
        .collect();
    list("Different bits in a second run", &items, unsteady.len())
}

fn list(title: &str, items: &[String], of: usize) -> String {
    if items.is_empty() {
        return String::new();
    }
    let more = match of - items.len().min(of) {
        0 => String::new(),
        more => {
            format!("<p class=\"dim\">and {more} more, which the JSON of this page contains.</p>\n")
        }
    };
    format!("<h3>{title}</h3>\n<ul>\n{}</ul>\n{more}", items.concat())
}

/// Returns the name of a case with the command that repeats it.
fn line(adapter: &AdapterReport, case: &CaseReport) -> String {
    format!("<b>{}</b><br><code>{}</code>", escape(&case.id), escape(&adapter.command(case)))
}

fn skips(adapter: &AdapterReport) -> String {
    let mut reasons = std::collections::BTreeMap::new();
    for case in adapter.cases.iter().filter(|case| case.status == Status::Skip) {
        *reasons.entry(case.reason.as_deref().unwrap_or("no reason given")).or_insert(0) += 1;
    }
    let items: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("<li>{count} × {}</li>\n", escape(reason)))
        .collect();
    list("Skipped", &items, items.len())
}

fn speeds(speed: &Speed) -> String {
    let giga = |rate: f64| if rate > 0.0 { format!("{:.2}", rate / 1e9) } else { "–".into() };
    let limits = &speed.limits;
    let mut out = format!(
        "<h3>Speed</h3>\n<p class=\"dim\">The limits of this adapter, measured in the same run: {} Gop/s \
         f32, {} Gop/s 8-bit dot products, reads of at most {} GB/s. The bar is the least time at these \
         limits as a share of the measured time.</p>\n<div class=\"scroll\"><table>\n<tr>\
         <th>op</th><th>weights</th><th>X</th><th>M×N×K</th><th>ms</th><th>Gop/s</th><th>GB/s of W</th>\
         <th>of limit</th><th>kernel</th></tr>\n",
        giga(limits.operations_per_second),
        giga(limits.dot_operations_per_second),
        giga(limits.read_bytes_per_second()),
    );
    for row in &speed.rows {
        let share = 100.0 * row.share_of_limit;
        out.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}×{}×{}</td><td class=\"number\">{:.2}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td><td>\
             <span class=\"bar\" style=\"width:{:.0}px\"></span> {share:.0} %</td><td>{}</td></tr>\n",
            escape(&row.op),
            escape(&row.weights),
            escape(&row.activations),
            row.m,
            row.n,
            row.k,
            row.ms,
            giga(row.operations_per_second),
            giga(row.weight_bytes_per_second),
            share.clamp(0.0, 100.0),
            escape(first_part(&row.kernel)),
        ));
    }
    out.push_str("</table></div>\n");
    out
}

fn facts(adapter: &AdapterReport) -> String {
    let table = |title: &str, rows: &mut dyn Iterator<Item = (String, String)>| {
        let rows: Vec<String> = rows
            .map(|(name, value)| {
                format!("<tr><td>{}</td><td>{}</td></tr>\n", escape(&name), escape(&value))
            })
            .collect();
        format!("<div><h3>{title}</h3><table>\n{}</table></div>\n", rows.concat())
    };
    let mut chosen = adapter.caps.iter().map(|(name, value)| (name.clone(), value.clone()));
    let mut limits = adapter.limits.iter().map(|(name, value)| (name.clone(), value.to_string()));
    let mut features = adapter.features.iter().map(|name| (name.clone(), "yes".into()));
    format!(
        "<div class=\"facts\">\n{}{}{}</div>\n",
        table("What the choice of kernels depends on", &mut chosen),
        table("Features in use", &mut features),
        table("Limits of the device", &mut limits),
    )
}

/// Escapes text for use between tags and within quotes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // The name of a driver may contain any characters.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

//! How figures are taken and shown, and the targets that they are about.

#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a benchmark looks at the real clock, and prints"
)]

use std::time::Instant;

/// So many targets, as a file of configuration has them: self-hosted, each on a host of its own.
pub(crate) fn targets(count: usize) -> String {
    let target = |number| {
        format!(
            "[[targets]]\nid = \"customer-{number:05}\"\nprovider_key = \"jira_data_center\"\n\
             deployment_mode = \"self-hosted\"\nownership = \"confirmed\"\n\
             base_url = \"https://jira.customer-{number:05}.example/\"\n\n"
        )
    };
    (0..count).map(target).collect()
}

/// How long something takes.
pub(crate) fn seconds(run: impl FnOnce()) -> f64 {
    let started = Instant::now();
    run();
    started.elapsed().as_secs_f64()
}

/// The middle one.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Prints a figure beside the most it may be. Whether it is, is for the reader to see: a machine
/// that is busy with something else must not fail a build.
pub(crate) fn report(what: &str, figure: f64, unit: &str, most: f64) {
    let verdict = if figure <= most { "ok" } else { "MISSED" };
    println!("{what:<64} {figure:>9.2} {unit:<3} (at most {most} {unit}: {verdict})");
}

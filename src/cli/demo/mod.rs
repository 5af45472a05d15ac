//! `demo`: a real gateway and real receivers on loopback, and each policy decision as it happens.
//!
//! The gateway is this very program as `serve`, and the connector as `connector`; name server,
//! receivers, the other ends of tunnels and the client run here. The demo checks itself: what does
//! not come out as announced is printed, and the exit code tells.

mod client;
mod connector;
mod folder;
mod gateway;
mod hop;
mod inside;
mod name_server;
mod peer;
mod process;
mod receiver;
mod scene;
mod scenes;
mod screen;
mod stage;

use std::{io, process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, timeout},
};

use self::{
    client::{Answer, CLIENT, Outcome, Problem},
    scene::{Expect, Scene, Seen},
    screen::{Screen, Style},
    stage::Stage,
};
use super::{fail, small_runtime};

/// Longest time that the demo takes, whatever happens. It usually takes a second.
const DEMO_TIMEOUT: Duration = Duration::from_mins(1);

/// Longest next step that is shown whole, in characters.
const NEXT_STEP_CHARS_MAX: usize = 90;

/// One row of the summary.
struct Row {
    title: &'static str,
    expected: String,
    seen: String,
    took: Duration,
    as_announced: bool,
}

/// Exit 0 when every scene came out as announced, 1 when one did not or the demo failed, and as
/// after that signal (128 and its number) when it was told to end.
pub(super) fn run() -> ExitCode {
    let mut screen = Screen::new();
    let outcome = small_runtime().map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                // First, so that a signal is listened for before anything is started.
                biased;
                signal = told_to_end() => Ok(128_u8.saturating_add(signal?)),
                shown = timeout(DEMO_TIMEOUT, show(&mut screen)) => {
                    let shown = shown.map_err(|_| anyhow!("it took longer than {DEMO_TIMEOUT:?}"))?;
                    shown.map(|all_as_announced| u8::from(!all_as_announced))
                }
            }
        })
    });
    let outcome = match (outcome, screen.failure()) {
        (Ok(_), Some(error)) => Err(anyhow!("standard output: {error}")),
        (outcome, _) => outcome,
    };
    outcome.map_or_else(|error| fail(format_args!("the demo failed: {error:#}"), 1), ExitCode::from)
}

/// Ready with the number of a signal that ends the demo, so that what it has started ends with it.
async fn told_to_end() -> io::Result<u8> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let kind = tokio::select! {
        _ = hangup.recv() => SignalKind::hangup(),
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
    };
    Ok(u8::try_from(kind.as_raw_value()).unwrap_or(0))
}

/// Shows everything. Whether all came out as announced.
async fn show(screen: &mut Screen) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut stage = Stage::set().await?;
    let proxy = stage.gateway.proxy;
    screen.line(Style::Bold, format_args!("A real gateway on {proxy}, and what it decides"));
    screen.line(
        Style::Plain,
        "It is this program as `serve`, with a name server and a receiver beside it. All is on \
         loopback;\nnothing leaves this machine. The client does what the shown commands would do, \
         after\n",
    );
    let export = format!("  export HTTPS_PROXY=http://{CLIENT}:$TOKEN@{proxy}");
    screen.line(Style::Plain, export);
    screen.line(Style::Plain, "  export http_proxy=$HTTPS_PROXY");
    screen.line(Style::Plain, "  export CURL_CA_BUNDLE=receiver.pem    # made for this demo");
    let mut rows = Vec::new();
    for scene in scenes::scenes(&stage) {
        let number = rows.len().saturating_add(1);
        rows.push(play(&mut stage, screen, number, &scene).await?);
    }
    stage.inside.stop_hop().await;
    stage.inside.stop_connector(&mut stage.gateway).await?;
    for scene in scenes::without_their_tunnels(&stage) {
        let number = rows.len().saturating_add(1);
        rows.push(play(&mut stage, screen, number, &scene).await?);
    }
    sum_up(screen, &rows, began.elapsed());
    Ok(rows.iter().all(|row| row.as_announced))
}

/// Plays one scene and shows it.
async fn play(
    stage: &mut Stage,
    screen: &mut Screen,
    number: usize,
    scene: &Scene,
) -> anyhow::Result<Row> {
    let Scene { title, story, ask, expect } = scene;
    screen.line(Style::Bold, format_args!("\n{number}. {title}"));
    screen.line(Style::Plain, format_args!("   {story}"));
    screen.line(Style::Plain, format_args!("   $ {}", ask.as_curl(stage.gateway.proxy)));
    let before = stage.visits();
    let began = Instant::now();
    let answer = stage.client.send(ask).await.context(*title)?;
    let took = began.elapsed();
    let decision_id = match &answer.outcome {
        Outcome::Refused(problem) => Some(&*problem.decision_id),
        Outcome::Answered(_) | Outcome::Cut(_) | Outcome::Relayed(_) | Outcome::Replayed => None,
    };
    let event = stage.gateway.event(decision_id).await.context(*title)?;
    let seen = Seen { answer, event, visits: stage.visits().since(before) };
    tell_answer(screen, &seen.answer);
    screen.labelled("   log     ", Style::Dim, &seen.event.line);
    let differences = seen.differences(expect);
    tell_verdict(screen, expect, &differences);
    Ok(Row {
        title,
        expected: expect.words(),
        seen: seen.words(),
        took,
        as_announced: differences.is_empty(),
    })
}

fn tell_answer(screen: &mut Screen, answer: &Answer) {
    let status = answer.status;
    let text = match &answer.outcome {
        Outcome::Refused(Problem { code, cause, .. }) => format!("{status} {code} ({cause})"),
        Outcome::Answered(text) => format!("{status}, and through the tunnel: {text}"),
        Outcome::Cut(error) => format!("{status}, and in the tunnel: {error}"),
        Outcome::Relayed(text) => format!("{status}, and the receiver says: {text}"),
        Outcome::Replayed => format!("{status}, with X-WebRiskOps-Replayed: true"),
    };
    screen.labelled("   client  ", Style::Plain, text);
    if let Outcome::Refused(problem) = &answer.outcome {
        let (owner, next) = (&problem.owner, shortened(&problem.next_step));
        screen.labelled("           ", Style::Plain, &problem.detail);
        screen.labelled("           ", Style::Plain, format_args!("owner: {owner}"));
        screen.labelled("           ", Style::Plain, format_args!("next step: {next}"));
    }
}

fn tell_verdict(screen: &mut Screen, expect: &Expect, differences: &[String]) {
    if !differences.is_empty() {
        for difference in differences {
            screen.labelled("   ", Style::Bad, format_args!("not as announced: {difference}"));
        }
        return;
    }
    let text = match expect {
        Expect::Allowed => "as announced: the receiver was reached",
        Expect::Refused { .. } | Expect::Cut { .. } => {
            "as announced: not a byte reached the receiver"
        }
        Expect::Delivered => "as announced: the receiver was asked once",
        Expect::Replayed => "as announced: the receiver was not asked again",
        Expect::Withheld { .. } => "as announced: the receiver's answer went no further",
        Expect::Distrusted { .. } => "as announced: no request reached the receiver",
    };
    screen.labelled("   ", Style::Good, text);
}

/// The table, and how it all came out.
fn sum_up(screen: &mut Screen, rows: &[Row], took: Duration) {
    let head = format!("\n{:<48} {:<26} {:<26} {:>4}", "scene", "expected", "seen", "ms");
    screen.line(Style::Bold, head);
    for (index, row) in rows.iter().enumerate() {
        let Row { title, expected, seen, took, as_announced } = row;
        let title = format!("{:>2}. {title}", index.saturating_add(1));
        let (took, style) =
            (took.as_millis(), if *as_announced { Style::Good } else { Style::Bad });
        let row = format!("{title:<48} {expected:<26} {seen:<26} {took:>4}");
        screen.line(style, row);
    }
    let wrong: Vec<_> = rows.iter().filter(|row| !row.as_announced).map(|row| row.title).collect();
    let (count, seconds) = (rows.len(), took.as_secs_f64());
    if wrong.is_empty() {
        screen.line(Style::Good, format_args!("\nAll {count} as announced, in {seconds:.1} s."));
    } else {
        let wrong = wrong.join("; ");
        screen.line(Style::Bad, format_args!("\nNot as announced: {wrong}."));
    }
}

/// A text of not too many characters, cut between words.
fn shortened(text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(NEXT_STEP_CHARS_MAX) else {
        return text.to_owned();
    };
    let cut = text.get(..end).unwrap_or_default();
    format!("{} …", cut.rsplit_once(' ').map_or(cut, |(words, _)| words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_next_step_is_cut_between_words() {
        let long = format!("{} end", "äöü ".repeat(30));
        let short = shortened(&long);
        assert!(short.ends_with("äöü …"), "{short}");
        assert!(short.chars().count() <= NEXT_STEP_CHARS_MAX + 2, "{short}");
        assert_eq!(shortened("Start the service."), "Start the service.");
    }
}

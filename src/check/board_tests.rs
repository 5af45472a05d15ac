//! The board by itself: what counts, for whom, and how a check under way ends.

#![expect(clippy::disallowed_methods, reason = "tasks of a test end with it")]

use jiff::ToSpan as _;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{net::TcpListener, sync::watch};

use super::*;
use crate::{
    check::{
        flight::Ending,
        slot::{Flight, Shown, Urgency},
    },
    config,
    sightings::Sightings,
    view::Shared,
};

const TTL: Duration = Duration::from_mins(15);

/// A board and its configuration, in which `acme` is where nobody listens.
struct Scene {
    board: Arc<Board>,
    shared: Shared,
    view: Arc<View>,
    folder: tempfile::TempDir,
    nobody: u16,
    /// Where connections are accepted, and nobody speaks.
    mute: TcpListener,
}

impl Scene {
    async fn new() -> Self {
        let store = Store::open("sqlite::memory:").await.unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let (sightings, _writer) = Sightings::new(Vec::new(), store.clone());
        let (board, writer) =
            Board::new(Arc::clone(&metrics), store, TaskTracker::new(), CancellationToken::new());
        board.tasks.spawn(writer.run());
        let shared = Shared {
            sightings: Arc::new(sightings),
            metrics,
            needs_egress: true,
            connectors: None,
        };
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = nobody.local_addr().unwrap().port();
        drop(nobody);
        let view = view(folder.path(), &shared, &configuration("", port, ""), None);
        Self { board: Arc::new(board), shared, view, folder, nobody: port, mute }
    }

    /// The configuration that follows: with these lines at its head, and `acme` with these fields.
    fn next(&mut self, head: &str, fields: &str) {
        let text = configuration(head, self.nobody, fields);
        self.view = view(self.folder.path(), &self.shared, &text, Some(&self.view));
    }

    fn acme(&self) -> Arc<Target> {
        Arc::clone(self.view.targets.get("acme").unwrap())
    }

    /// `acme`, but where nobody speaks.
    fn moved(&self) -> Arc<Target> {
        let text = configuration("", self.mute.local_addr().unwrap().port(), "");
        let view = view(self.folder.path(), &self.shared, &text, Some(&self.view));
        Arc::clone(view.targets.get("acme").unwrap())
    }

    /// A check of `acme` with this verdict.
    fn check(&self, state: State) -> Check {
        let target = self.acme();
        let now = Timestamp::now();
        let mut check = Check {
            connectivity_check_id: Some("01CHECK".into()),
            last_checked_at: Some(now),
            expires_at: Some(now + 10.minutes()),
            state,
            ..Check::unchecked(&target, self.view.egress_ips.first().copied())
        };
        if state != State::Ready {
            check.refused(state, &Refusal::new(Cause::DnsNxdomain, "no such name"), &target);
        }
        check
    }

    fn stored(&self, check: &Check) -> StoredCheck {
        StoredCheck {
            connectivity_check_id: "01CHECK".into(),
            target_id: "acme".into(),
            fingerprint: self.acme().fingerprint.to_string(),
            document: serde_json::to_string(check).unwrap(),
            checked_at: 0,
        }
    }

    fn slot(&self) -> Arc<Slot> {
        self.board.slot(&self.acme().id)
    }

    /// Makes a check of `acme` the one that counts.
    fn publish(&self, state: State) -> Arc<Check> {
        self.board.publish(&self.slot(), &self.view, &self.acme(), self.check(state))
    }

    fn urgency(&self) -> Option<Urgency> {
        self.slot().urgency(self.acme().fingerprint, Instant::now(), true)
    }

    fn states(&self) -> usize {
        self.series("egress_target_state")
    }

    fn series(&self, family: &str) -> usize {
        let text = self.board.metrics.render().unwrap();
        text.lines().filter(|line| line.starts_with(family)).count()
    }
}

fn configuration(head: &str, port: u16, fields: &str) -> String {
    format!(
        "{head}\n[policy]\nallow_loopback = true\n[dns]\nservers = [\"127.0.0.1:9\"]\n\
         [limits]\ntls_timeout = \"30s\"\n[[targets]]\nid = \"acme\"\n\
         provider_key = \"jira_data_center\"\ndeployment_mode = \"self-hosted\"\n\
         ownership = \"confirmed\"\nbase_url = \"https://127.0.0.1:{port}\"\n\
         private_network_policy = \"direct\"\nprivate_network_allowlist = [\"127.0.0.0/8\"]\n\
         {fields}\n"
    )
}

fn view(
    folder: &std::path::Path,
    shared: &Shared,
    text: &str,
    previous: Option<&View>,
) -> Arc<View> {
    let file = folder.join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    let config = config::load(&[file]).map_err(|invalid| invalid.to_string()).unwrap().config;
    Arc::new(View::new(config, Vec::new(), shared, previous).unwrap())
}

fn is_unknown(standing: &Standing) -> bool {
    matches!(standing, Standing::Unknown)
}

// === what is taken over from an earlier run ===

#[tokio::test]
async fn a_check_of_an_earlier_run_counts_where_it_is_current_and_of_this_very_target() {
    let scene = Scene::new().await;
    let restored = |stored: StoredCheck| {
        scene.board.forget(|_| true);
        scene.board.restore(vec![stored], &scene.view);
        scene.board.standing(&scene.acme())
    };
    let (ready, blocked) = (scene.check(State::Ready), scene.check(State::Blocked));
    assert!(matches!(restored(scene.stored(&ready)), Standing::Ready));
    let Standing::Blocked(check, wait) = restored(scene.stored(&blocked)) else { panic!() };
    assert_eq!(check.cause.as_deref(), Some("dns_nxdomain"));
    assert!(wait > Duration::from_mins(9) && wait <= Duration::from_mins(10), "{wait:?}");

    let past = Some(Timestamp::now() - 1.second());
    let rows = [
        ("expired", scene.stored(&Check { expires_at: past, ..ready.clone() })),
        ("without an end", scene.stored(&Check { expires_at: None, ..ready.clone() })),
        ("of a changed target", StoredCheck { fingerprint: "00".into(), ..scene.stored(&ready) }),
        ("of another target", StoredCheck { target_id: "gone".into(), ..scene.stored(&ready) }),
        ("unreadable", StoredCheck { document: "{}".into(), ..scene.stored(&ready) }),
        ("stopped", scene.stored(&scene.check(State::Stopped))),
        ("no verdict", scene.stored(&scene.check(State::Unchecked))),
    ];
    for (what, stored) in rows {
        assert!(is_unknown(&restored(stored)), "{what}");
        assert_eq!(scene.board.len(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_lengthens_no_check() {
    let scene = Scene::new().await;
    let far = Some(Timestamp::now() + 1000.hours());
    let check = Check { expires_at: far, ..scene.check(State::Ready) };
    scene.board.restore(vec![scene.stored(&check)], &scene.view);
    let known = scene.slot().known.load_full().unwrap();
    assert!(known.until <= Instant::now() + TTL);
    assert!(known.due < known.until);
}

// === changes ===

#[tokio::test]
async fn a_new_configuration_has_those_checked_whose_check_it_may_have_changed() {
    let mut scene = Scene::new().await;
    scene.publish(State::Ready);
    scene.board.follow(&scene.view);
    assert_eq!(scene.urgency(), None, "nothing has changed");
    assert!(matches!(scene.board.standing(&scene.acme()), Standing::Ready));

    scene.next("", "allowlist = [\"192.0.2.1\"]");
    scene.board.follow(&scene.view);
    assert!(is_unknown(&scene.board.standing(&scene.acme())));
    assert_eq!(scene.urgency(), Some(Urgency::Changed));

    scene.publish(State::Ready);
    scene.next("egress.ip = [\"127.0.0.1\"]", "allowlist = [\"192.0.2.1\"]");
    scene.board.follow(&scene.view);
    assert!(matches!(scene.board.standing(&scene.acme()), Standing::Ready), "it still counts");
    assert_eq!(scene.urgency(), Some(Urgency::Changed), "another egress address");

    scene.slot().begin();
    scene.publish(State::Ready);
    scene.board.follow(&scene.view);
    assert_eq!(scene.urgency(), None);
    let mut shorter = View::clone(&scene.view);
    shorter.check_ttl = Duration::from_mins(1);
    scene.board.follow(&shorter);
    assert_eq!(scene.urgency(), Some(Urgency::Changed), "it counts for longer than it should");

    scene.slot().begin();
    scene.publish(State::Blocked);
    assert_eq!(scene.urgency(), None, "it is left alone for a while");
    scene.board.follow(&scene.view);
    assert_eq!(scene.urgency(), Some(Urgency::Changed), "the operator may have mended it");
}

#[tokio::test]
async fn a_target_that_goes_is_forgotten_and_a_check_of_it_that_lands_later_shows_nothing() {
    let scene = Scene::new().await;
    let slot = scene.slot();
    scene.board.changed(&scene.acme().id, Some(&scene.acme()));
    assert_eq!(scene.states(), 1);
    scene.publish(State::Ready);
    assert!(matches!(scene.board.standing(&scene.acme()), Standing::Ready));
    scene.board.changed(&scene.acme().id, None);
    assert!(is_unknown(&scene.board.standing(&scene.acme())));
    assert_eq!((scene.states(), scene.board.len()), (0, 0));
    assert!(matches!(*slot.shown(), Shown::Gone));
    let mut check = scene.check(State::Ready);
    check.tls = Some(crate::check::Certificate {
        version: None,
        issuer: None,
        not_after: Some(Timestamp::now() + 1000.hours()),
        names: Vec::new(),
    });
    scene.board.publish(&slot, &scene.view, &scene.acme(), check.clone());
    assert_eq!((scene.states(), scene.series("egress_target_certificate")), (0, 0));
    assert!(is_unknown(&scene.board.standing(&scene.acme())));
    // The same where it is there.
    scene.board.publish(&scene.slot(), &scene.view, &scene.acme(), check);
    assert_eq!((scene.states(), scene.series("egress_target_certificate")), (1, 1));
}

#[tokio::test]
async fn a_check_under_an_older_configuration_does_not_take_the_place_of_a_newer_one() {
    let mut scene = Scene::new().await;
    let (older, old_view) = (scene.acme(), Arc::clone(&scene.view));
    scene.next("", "allowlist = [\"192.0.2.1\"]");
    scene.publish(State::Ready);
    let late = Check { connectivity_check_id: Some("late".into()), ..scene.check(State::Blocked) };
    scene.board.publish(&scene.slot(), &old_view, &older, late.clone());
    assert!(matches!(scene.board.standing(&scene.acme()), Standing::Ready));
    // One of the same target counts, whichever configuration it began under.
    let same = Arc::new(Target { generation: 0, ..Target::clone(&scene.acme()) });
    scene.board.publish(&scene.slot(), &old_view, &same, late);
    assert!(matches!(scene.board.standing(&scene.acme()), Standing::Blocked(..)));
}

#[tokio::test]
async fn a_check_of_a_disabled_target_does_not_outlive_its_being_disabled() {
    let mut scene = Scene::new().await;
    scene.next("", "enabled = false");
    let check = scene.board.check_and_keep(&scene.view, &scene.acme()).await.unwrap();
    assert_eq!(check.state, State::Stopped);
    assert_eq!(scene.board.connectivity(&scene.view, &scene.acme()).state, State::Stopped);
    scene.next("", "enabled = true");
    assert!(is_unknown(&scene.board.standing(&scene.acme())));
    assert_eq!(scene.board.connectivity(&scene.view, &scene.acme()).state, State::Unchecked);
}

// === who is told what ===

#[tokio::test]
async fn traffic_is_refused_with_the_time_until_the_next_check_rounded_up() {
    let scene = Scene::new().await;
    scene.publish(State::Blocked);
    let refusal = scene.board.gate(&scene.view, &scene.acme()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::DnsNxdomain);
    assert_eq!(refusal.check_id.as_deref(), Some("01CHECK"));
    let known = scene.slot().known.load_full().unwrap();
    let left = known.until - Instant::now();
    assert!(refusal.retry_after.unwrap() >= left, "{:?} {left:?}", refusal.retry_after);
    assert!(refusal.retry_after.unwrap() <= left + Duration::from_secs(2));
}

#[tokio::test]
async fn a_check_that_reached_nothing_and_does_not_say_why_still_blocks() {
    let scene = Scene::new().await;
    let check = Check { cause: None, ..scene.check(State::Blocked) };
    scene.board.publish(&scene.slot(), &scene.view, &scene.acme(), check);
    let refusal = scene.board.gate(&scene.view, &scene.acme()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::CheckUnfinished);
}

#[tokio::test]
async fn whoever_joins_a_check_of_the_target_as_it_was_gets_one_of_the_target_as_it_is() {
    let scene = Scene::new().await;
    let slot = scene.slot();
    let (sender, landed) = watch::channel(None);
    let (_kept, kept) = watch::channel(false);
    let (id, target) = ("old".into(), scene.moved().id.clone());
    let old = Flight { id, target, fingerprint: scene.moved().fingerprint, landed, kept };
    *slot.flight() = Some(old);
    let (board, view, target) = (Arc::clone(&scene.board), Arc::clone(&scene.view), scene.acme());
    let joined = tokio::spawn(async move { board.gate(&view, &target).await });
    tokio::task::yield_now().await;
    Ending::of(&slot, sender).land(Arc::new(scene.check(State::Ready)));
    let refusal = joined.await.unwrap().unwrap_err();
    assert_eq!(refusal.cause, Cause::ConnectRefused, "the old result was served");
}

// === how a check under way ends ===

#[tokio::test]
async fn a_check_that_panics_ends_its_flight_and_the_next_request_begins_another() {
    let scene = Scene::new().await;
    let slot = scene.slot();
    let (sender, landed) = watch::channel(None);
    let (_kept, kept) = watch::channel(false);
    let acme = scene.acme();
    let (id, target) = ("old".into(), acme.id.clone());
    *slot.flight() = Some(Flight { id, target, fingerprint: acme.fingerprint, landed, kept });
    let ending = Ending::of(&slot, sender);
    let (board, view, target) = (Arc::clone(&scene.board), Arc::clone(&scene.view), scene.acme());
    let joined = tokio::spawn(async move { board.gate(&view, &target).await });
    tokio::task::yield_now().await;
    let panicked = tokio::spawn(async move {
        let _ending = ending;
        panic!("on purpose");
    });
    assert!(panicked.await.is_err());
    let refusal = joined.await.unwrap().unwrap_err();
    assert_eq!(refusal.cause, Cause::CheckUnfinished);
    let refusal = scene.board.gate(&scene.view, &scene.acme()).await.unwrap_err();
    assert_eq!(refusal.cause, Cause::ConnectRefused);
    assert!(slot.flight().is_none());
}

#[tokio::test]
async fn the_end_of_the_process_ends_checks_and_tells_who_waits() {
    let scene = Scene::new().await;
    let target = scene.moved();
    let (board, view) = (Arc::clone(&scene.board), Arc::clone(&scene.view));
    let waiting = tokio::spawn(async move { board.check_and_keep(&view, &target).await });
    let (_stream, _) = scene.mute.accept().await.unwrap();
    assert!(scene.slot().flight().is_some());
    scene.board.stop.cancel();
    assert_eq!(waiting.await.unwrap(), None);
    assert!(scene.slot().flight().is_none());
}

#[tokio::test]
async fn one_is_begun_only_where_none_is_under_way() {
    let scene = Scene::new().await;
    let target = scene.moved();
    let id = scene.board.begin_check(&scene.view, &target);
    assert_eq!(scene.board.begin_check(&scene.view, &target), id);
    assert_eq!(scene.urgency(), None, "and the scheduler leaves it alone");
    let (_stream, _) = scene.mute.accept().await.unwrap();
}

#[tokio::test]
async fn a_check_that_no_disk_takes_counts_all_the_same() {
    let store = Store::open("sqlite::memory:").await.unwrap();
    let scene = Scene::new().await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (board, writer) = Board::new(Arc::clone(&scene.shared.metrics), store, tasks, stop);
    drop(writer);
    let board = Arc::new(board);
    let check = board.check_and_keep(&scene.view, &scene.acme()).await.unwrap();
    assert_eq!(check.cause.as_deref(), Some("connect_refused"));
    assert!(matches!(board.standing(&scene.acme()), Standing::Blocked(..)));
}

#[tokio::test]
async fn what_was_checked_is_on_the_disk_when_it_is_told() {
    let mut scene = Scene::new().await;
    let file = scene.folder.path().join("gateway.db");
    let store = Store::open(&format!("sqlite:{}", file.display())).await.unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let metrics = Arc::clone(&scene.shared.metrics);
    let (board, writer) = Board::new(metrics, store.clone(), tasks, stop);
    board.tasks.spawn(writer.run());
    scene.board = Arc::new(board);
    // Whoever holds the lock decides when something is written.
    let options = SqliteConnectOptions::new().filename(&file);
    let mut lock = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
    let (board, view, target) = (Arc::clone(&scene.board), Arc::clone(&scene.view), scene.acme());
    let mut told = tokio::spawn(async move { board.check_and_keep(&view, &target).await });
    while is_unknown(&scene.board.standing(&scene.acme())) {
        tokio::task::yield_now().await;
    }
    let early = tokio::time::timeout(Duration::from_millis(200), &mut told).await;
    assert!(early.is_err(), "told before it was on the disk");
    sqlx::query("ROLLBACK").execute(&mut lock).await.unwrap();
    let check = told.await.unwrap().unwrap();
    let id = check.connectivity_check_id.clone().unwrap();
    let kept = store.check(&id).await.unwrap().unwrap();
    assert_eq!(kept.fingerprint, scene.acme().fingerprint.to_string());
    assert_eq!(serde_json::from_str::<Check>(&kept.document).unwrap(), *check);
}

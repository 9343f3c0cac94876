//! The SecondaryNameNode's page: whether a checkpoint is there, how old it is, and why there is no newer one.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use super::status::{Known, Status};
use crate::pages::health::{Health, Level};
use crate::pages::text::{counted, shown, span};
use crate::pages::{answer, redirect};

/// Silence of the NameNode that is worth a look: it is asked every few seconds, and within a minute after a failure.
const SILENCE: Duration = Duration::from_secs(180);

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// `host:port`.
    pub(super) namenode: String,
    /// Where the checkpoint is.
    pub(super) dir: String,
    /// Time between checkpoints.
    pub(super) period: Duration,
}

/// `/`, and the address that HDFS's users remember.
pub(super) fn router(status: Arc<Status>, shape: Shape) -> Router {
    let page = move || async move { answer(StatusCode::OK, &Page::new(&status.known(), &shape)) };
    Router::new().route("/", get(page)).route("/status.html", get(|| async { redirect("/") }))
}

#[derive(Template)]
#[template(path = "secondary.html")]
struct Page {
    health: Health,
    facts: Vec<(&'static str, String)>,
    identity: String,
}

impl Page {
    fn new(known: &Known, shape: &Shape) -> Self {
        let unknown = || "not known".to_owned();
        Self {
            health: judge(known, shape),
            facts: vec![
                (
                    "Last checkpoint",
                    known.last.map_or_else(|| "none".to_owned(), |(txid, _)| format!("transaction {txid}")),
                ),
                ("Its age", known.age().map_or_else(unknown, span)),
                ("Behind the NameNode", known.behind().map_or_else(unknown, |behind| counted(behind, "change"))),
                ("Now", if known.is_at_work { "making a checkpoint" } else { "waiting" }.to_owned()),
                ("One every", span(shape.period)),
                ("NameNode", shown(shape.namenode.as_bytes())),
                (
                    "NameNode answered",
                    known
                        .answered
                        .map_or_else(|| "not yet".to_owned(), |(at, _)| format!("{} ago", span(at.elapsed()))),
                ),
                ("Directory", shown(shape.dir.as_bytes())),
            ],
            identity: format!(
                "dfs {}, cluster {}",
                env!("CARGO_PKG_VERSION"),
                shown(known.cluster.as_deref().unwrap_or("not known yet").as_bytes())
            ),
        }
    }
}

fn judge(known: &Known, shape: &Shape) -> Health {
    let mut health = Health::default();
    if let Some((at, why)) = &known.failure {
        health.add(
            Level::Watch,
            format!("The last try failed {} ago: {}", span(at.elapsed()), shown(why.as_bytes())),
            "It tries again within a minute. The NameNode serves meanwhile, and keeps its edits.",
        );
    }
    let is_old = known.lag().is_some_and(|lag| lag > 2 * shape.period);
    // While it is at work it does not ask.
    let silence = known.answered.map(|(at, _)| at.elapsed()).filter(|silence| *silence > SILENCE && !known.is_at_work);
    if let Some(silence) = silence {
        health.add(
            if silence > 2 * shape.period { Level::Act } else { Level::Watch },
            format!("The NameNode has not answered for {}", span(silence)),
            "It is asked again and again, and no checkpoint is made meanwhile. See that it runs, and that dfs.namenode.address is \
             its address.",
        );
    } else if known.answered.is_none() {
        health.add(
            Level::Watch,
            "The NameNode has not answered since the start",
            "It is asked again and again. See that it runs, and that dfs.namenode.address is its address.",
        );
    } else if is_old {
        health.add(
            Level::Act,
            "The last checkpoint is older than two periods",
            "What was changed since would be lost with the NameNode's device: see why there is no newer one.",
        );
    } else if known.last.is_none() && !known.is_at_work {
        health.add(
            Level::Watch,
            "There is no checkpoint yet",
            "The first one is made as soon as the NameNode answers. Until then there is no copy of the namespace here.",
        );
    }
    health.sorted()
}

#[cfg(test)]
mod pages_tests {
    use std::time::Instant;

    use dfs_common::ids::TxId;

    use super::*;

    fn page(known: &Known) -> String {
        let shape = Shape { namenode: "nn:9820".into(), dir: "/data/<b>".into(), period: Duration::from_secs(60) };
        Page::new(known, &shape).render().unwrap()
    }

    fn known(applied: u64, age: Duration) -> Known {
        let now = Instant::now();
        Known { answered: Some((now, TxId(applied))), last: Some((TxId(7), Some((now, age)))), ..Known::default() }
    }

    #[test]
    fn page_tells_the_last_checkpoint() {
        let text = page(&known(9, Duration::from_secs(5)));
        assert!(text.contains("All is well") && text.contains("transaction 7") && text.contains("2 changes"), "{text}");
        assert!(!text.contains("/data/<b>"), "it is escaped");
    }

    #[test]
    fn page_asks_for_somebody_when_the_checkpoint_is_old() {
        let old = Duration::from_secs(180);
        assert!(page(&known(9, old)).contains("Somebody must act"));
        assert!(page(&known(7, old)).contains("All is well"), "nothing has changed since");
        let known = Known { in_step: Some(Instant::now()), ..known(9, old) };
        assert!(page(&known).contains("All is well"), "the first change after a long rest is not late");
    }

    #[test]
    fn page_says_for_how_long_the_namenode_has_been_silent() {
        let long_ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        for (period, seconds, words) in [
            (600, 100, "All is well"),
            (600, 200, "It serves, and there is something to look at"),
            (60, 200, "Somebody must act"),
        ] {
            let Some(at) = long_ago(seconds) else { return };
            let shape = Shape { namenode: "nn".into(), dir: "/d".into(), period: Duration::from_secs(period) };
            let silent = Known { answered: Some((at, TxId(7))), ..known(7, Duration::ZERO) };
            let text = Page::new(&silent, &shape).render().unwrap();
            assert!(text.contains(words), "{period} {seconds}: {text}");
            let busy = Known { is_at_work: true, ..silent };
            assert!(Page::new(&busy, &shape).render().unwrap().contains("All is well"));
        }
    }

    #[test]
    fn page_says_why_there_is_none() {
        let failure = Some((Instant::now(), "no <NameNode>".to_owned()));
        let text = page(&Known { failure, ..Known::default() });
        assert!(text.contains("no &#60;NameNode&#62;") && text.contains("has not answered since the start"), "{text}");
    }
}

//! `dfs balancer`: moves replicas from full DataNodes to empty ones until all are about equally full.
//!
//! ```text
//!  admission -> report -> plan (pairs of nodes) -> the NameNode orders moves -> wait until they have ended -> report -> ...
//! ```
//!
//! Nothing is kept between rounds: a balancer that is stopped leaves at most some blocks with a replica too many, which the
//! cluster deletes, and the next one goes on from what it finds.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use dfs_client::{AdminState, DatanodeReport, DatanodeState, MoveStep};
use dfs_common::units::ByteCount;
use dfs_common::{DfsError, ErrorKind};
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::format;

/// Bytes moved from one node per round at most, HDFS's number: the plan is made anew after that.
const ROUND_BYTES_MAX: u64 = 10 << 30;

/// Rounds without a move after which there is nothing more to be done, HDFS's number.
const IDLE_ROUNDS_MAX: u32 = 5;

/// Time between looks at moves under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a round may take: after that it is planned anew, whatever is still under way.
const ROUND_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Time in which DataNodes tell by heartbeat what they have now: three of them, by default.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// Moves replicas between DataNodes until each is about as full as the whole cluster.
///
/// Runs while the cluster serves, and keeps to the rules of racks. It can be stopped at any time and started again. Only one
/// may run at a time.
#[derive(Debug, Args)]
pub(crate) struct BalancerArgs {
    /// Percentage points by which a DataNode may be fuller or emptier than the cluster
    #[arg(long, default_value_t = 10.0, value_parser = parse_threshold)]
    threshold: f64,
    /// Bytes per second that each DataNode may send for this; it has a limit of its own as well
    #[arg(long, value_name = "BYTES", default_value = "10MiB", value_parser = parse_bandwidth)]
    bandwidth: ByteCount,
}

/// DataNodes do not send more slowly than that: who receives would take the pauses for silence.
const BANDWIDTH_MIN: ByteCount = ByteCount(1 << 10);

fn parse_bandwidth(text: &str) -> Result<ByteCount, String> {
    match text.parse::<ByteCount>()? {
        bandwidth if bandwidth >= BANDWIDTH_MIN => Ok(bandwidth),
        _ => Err(format!("at least {BANDWIDTH_MIN} a second are needed")),
    }
}

fn parse_threshold(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(threshold) if (1.0..=100.0).contains(&threshold) => Ok(threshold),
        _ => Err("a number from 1 to 100 is needed".to_owned()),
    }
}

/// How full a DataNode is.
#[derive(Clone, Debug, PartialEq)]
struct Fill {
    uuid: String,
    capacity: u64,
    used: u64,
}

impl Fill {
    fn percent(&self) -> f64 {
        percent(self.used, self.capacity)
    }
}

#[allow(clippy::cast_precision_loss, reason = "shares need no more than twelve digits")]
fn percent(used: u64, capacity: u64) -> f64 {
    if capacity == 0 { 0.0 } else { used as f64 * 100.0 / capacity as f64 }
}

/// Bytes to be moved from one node to another.
#[derive(Clone, Debug, PartialEq)]
struct Pair {
    source: String,
    target: String,
    bytes: u64,
}

/// What a look at the cluster says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Plan {
    mean: f64,
    /// Largest distance from the mean.
    worst: f64,
    pairs: Vec<Pair>,
}

/// Pairs nodes above the mean with nodes below it, the fullest with the emptiest; at least one of a pair is beyond the
/// threshold.
fn make_plan(nodes: &[Fill], threshold: f64) -> Plan {
    let sum = |value: fn(&Fill) -> u64| nodes.iter().map(value).fold(0, u64::saturating_add);
    let mean = percent(sum(|node| node.used), sum(|node| node.capacity));
    let worst = nodes.iter().map(|node| (node.percent() - mean).abs()).fold(0.0, f64::max);
    // Bytes above the mean (positive) or below.
    let distance = |node: &Fill| i128::from(node.used) - at_percent(node.capacity, mean);
    let mut above: Vec<(&Fill, i128)> = nodes.iter().map(|node| (node, distance(node))).filter(|it| it.1 > 0).collect();
    let mut below: Vec<(&Fill, i128)> =
        nodes.iter().map(|node| (node, -distance(node))).filter(|it| it.1 > 0).collect();
    above.sort_by(|a, b| b.0.percent().total_cmp(&a.0.percent()));
    below.sort_by(|a, b| a.0.percent().total_cmp(&b.0.percent()));
    let is_beyond = |node: &Fill| (node.percent() - mean).abs() > threshold;
    let mut pairs = Vec::new();
    for (source, excess) in &mut above {
        for (target, room) in &mut below {
            let bytes = (*excess).min(*room);
            if bytes <= 0 || !(is_beyond(source) || is_beyond(target)) {
                continue;
            }
            *excess -= bytes;
            *room -= bytes;
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(ROUND_BYTES_MAX);
            pairs.push(Pair { source: source.uuid.clone(), target: target.uuid.clone(), bytes });
        }
    }
    Plan { mean, worst, pairs }
}

/// Bytes that make a node this full.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "shares need no more than twelve digits"
)]
fn at_percent(capacity: u64, percent: f64) -> i128 {
    (capacity as f64 * percent / 100.0) as i128
}

#[derive(Serialize)]
struct BalancerJson {
    balanced: bool,
    rounds: u32,
    moved_replicas: u64,
    moved_bytes: u64,
    mean_percent: f64,
    worst_distance_percent: f64,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: BalancerArgs) -> Outcome {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Unlike any other run's, also of another machine started in the same instant, with all but certainty.
    let number = (since_epoch.as_nanos() as u64).rotate_left(16) ^ u64::from(std::process::id());
    let (replicas, bytes) = (Tally::default(), Tally::default());
    let mut run = Run { ctx, args: &args, number, rounds: 0, plan: Plan::default(), replicas, bytes };
    run.ask_admission().await?;
    let balanced = run.balance().await;
    let document = BalancerJson {
        balanced: matches!(balanced, Ok(true)),
        rounds: run.rounds,
        moved_replicas: run.replicas.total,
        moved_bytes: run.bytes.total,
        mean_percent: run.plan.mean,
        worst_distance_percent: run.plan.worst,
    };
    let outcome = balanced.and_then(|balanced| if balanced { Ok(()) } else { Err(not_balanced(&run.plan)) });
    ctx.conclude(outcome, &document)?;
    run.say(&format!("The cluster is balanced: no DataNode is {} points from the mean", args.threshold))
}

fn not_balanced(plan: &Plan) -> Failure {
    let words = format!("no replica can be moved any more; a DataNode is {:.1} points from the mean", plan.worst);
    Failure::refused("not balanced", words).with_hint("racks, or too few nodes for the replication, may not allow it")
}

struct Run<'a> {
    ctx: &'a Context,
    args: &'a BalancerArgs,
    number: u64,
    rounds: u32,
    /// By the latest look.
    plan: Plan,
    replicas: Tally,
    bytes: Tally,
}

/// A number that the NameNode counts up, and begins anew when it restarts.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    total: u64,
    last: u64,
}

impl Tally {
    fn hear(&mut self, counted: u64) {
        self.total += counted.checked_sub(self.last).unwrap_or(counted);
        self.last = counted;
    }
}

impl Run<'_> {
    /// Fails for who may not balance, and while another balancer runs: a cluster that needs no move must not hide that.
    async fn ask_admission(&mut self) -> Outcome {
        // Who may hears that there is no such DataNode.
        self.step(&Pair { source: String::new(), target: String::new(), bytes: 0 }, 0).await.map(|_| ())
    }

    /// Rounds until the cluster is balanced (true) or nothing moves any more.
    async fn balance(&mut self) -> Outcome<bool> {
        let mut idle_rounds = 0;
        loop {
            let plan = make_plan(&self.look().await?, self.args.threshold);
            self.plan = plan.clone();
            if plan.worst <= self.args.threshold {
                return Ok(true);
            }
            if idle_rounds >= IDLE_ROUNDS_MAX || plan.pairs.is_empty() {
                return Ok(false);
            }
            self.rounds += 1;
            self.say(&format!(
                "Round {}: mean {:.1} %, farthest DataNode {:.1} points away, {} moved so far",
                self.rounds,
                plan.mean,
                plan.worst,
                format::human_size(self.bytes.total)
            ))?;
            let before = self.replicas.total;
            let has_ended = self.round(&plan.pairs).await?;
            // What is slower than a round is under way all the same; the NameNode gives up what does not come.
            idle_rounds = if has_ended && self.replicas.total == before { idle_rounds + 1 } else { 0 };
        }
    }

    async fn look(&self) -> Outcome<Vec<Fill>> {
        let reports = self.ctx.client.get_datanode_report(&self.ctx.caller).await.map_err(Failure::cluster)?;
        Ok(reports.iter().filter(|report| is_balanced_over(report)).map(fill_of).collect())
    }

    /// Orders the moves of a plan and waits for them; false when some are still under way.
    async fn round(&mut self, pairs: &[Pair]) -> Outcome<bool> {
        let deadline = Instant::now() + ROUND_TIMEOUT;
        for pair in pairs {
            self.step(pair, pair.bytes).await?;
        }
        let has_ended = loop {
            let mut on_their_way = 0;
            for pair in pairs {
                on_their_way += self.step(pair, 0).await?;
            }
            if on_their_way == 0 || Instant::now() >= deadline {
                break on_their_way == 0;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        tokio::time::sleep(SETTLE_TIME).await;
        Ok(has_ended)
    }

    /// Orders moves within these bytes; the replicas of the source that are on their way.
    async fn step(&mut self, pair: &Pair, max_bytes: u64) -> Outcome<u32> {
        let (source, target) = (pair.source.as_str(), pair.target.as_str());
        let step = MoveStep { run: self.number, source, target, max_bytes, bandwidth: self.args.bandwidth.0 };
        match self.ctx.client.move_replicas(&self.ctx.caller, &step).await {
            Ok(moves) => {
                self.replicas.hear(moves.moved_replicas);
                self.bytes.hear(moves.moved_bytes);
                Ok(moves.on_their_way)
            }
            // A node that died meanwhile is not in the next plan.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(refusal(error)),
        }
    }

    fn say(&self, line: &str) -> Outcome {
        if self.ctx.json() { Ok(()) } else { self.ctx.output.line(line).and_then(|()| self.ctx.output.flush()) }
    }
}

/// Why the NameNode does not move replicas for us. `Busy` is said of files elsewhere.
fn refusal(error: DfsError) -> Failure {
    match error.kind() {
        ErrorKind::Busy => Failure::refused("not balanced", DfsError::message(&error)),
        _ => Failure::admin(error),
    }
}

/// Nodes that serve; others neither give nor take.
fn is_balanced_over(report: &DatanodeReport) -> bool {
    report.state == DatanodeState::Live && report.admin_state == AdminState::InService
}

fn fill_of(report: &DatanodeReport) -> Fill {
    let working = report.volumes.iter().filter(|volume| !volume.failed);
    let (capacity, used) = working.fold((0u64, 0u64), |(capacity, used), volume| {
        (capacity.saturating_add(volume.capacity), used.saturating_add(volume.used))
    });
    Fill { uuid: report.uuid.clone(), capacity, used }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(used: &[u64]) -> Vec<Fill> {
        let node = |(at, &used): (usize, &u64)| Fill { uuid: at.to_string(), capacity: 1000, used };
        used.iter().enumerate().map(node).collect()
    }

    fn pair(source: &str, target: &str, bytes: u64) -> Pair {
        Pair { source: source.into(), target: target.into(), bytes }
    }

    #[test]
    fn make_plan_is_this_table() {
        for (used, expected) in [
            (vec![500, 500], vec![]),
            (vec![550, 450], vec![]),
            (vec![900, 100], vec![pair("0", "1", 400)]),
            // One beyond the threshold, two a little below: both take.
            (vec![700, 400, 400], vec![pair("0", "1", 100), pair("0", "2", 100)]),
            // An empty new node takes from all above the mean.
            (vec![600, 600, 0], vec![pair("0", "2", 200), pair("1", "2", 200)]),
            (vec![0, 0], vec![]),
        ] {
            assert_eq!(make_plan(&nodes(&used), 10.0).pairs, expected, "{used:?}");
        }
    }

    #[test]
    fn tally_goes_on_after_the_namenode_began_anew() {
        let mut tally = Tally::default();
        for (counted, total) in [(3, 3), (5, 5), (2, 7), (2, 7), (4, 9)] {
            tally.hear(counted);
            assert_eq!(tally.total, total);
        }
    }

    #[test]
    fn refusal_fits_a_balancer() {
        for (kind, words, expected) in [
            (ErrorKind::Busy, "another balancer runs", "not balanced: another balancer runs"),
            (ErrorKind::NotPermitted, "only root", "operation not permitted (only root); run it as the superuser"),
        ] {
            assert_eq!(refusal(DfsError::new(kind, words)).to_string(), expected);
        }
    }

    #[test]
    fn make_plan_of_no_nodes_is_balanced() {
        assert_eq!(make_plan(&[], 10.0), Plan { mean: 0.0, worst: 0.0, pairs: Vec::new() });
    }
}

//! `dfs admin`: what those who run the cluster ask for.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use dfs_client::{SafeModeAction, SafeModeStatus};
use serde::Serialize;

use crate::admin_recover_lease::{self, RecoverLeaseArgs};
use crate::admin_report::{self, ReportArgs};
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// Time between looks of `safemode wait`.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Looks after the cluster.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Shows the cluster's space and blocks, and every DataNode with its volumes
    Report(ReportArgs),
    /// Tells whether safe mode is on, enters it, leaves it, or waits for its end
    Safemode(SafemodeArgs),
    /// Makes a checkpoint of the namespace now
    #[command(alias = "saveNamespace")]
    SaveNamespace,
    /// Has the NameNode read its files about DataNodes again
    ///
    /// These are the files that its keys dfs.hosts, dfs.hosts.exclude and net.topology.table.file.name name. A DataNode that
    /// is in dfs.hosts.exclude now is decommissioned: `dfs admin report` shows how far that is.
    #[command(alias = "refreshNodes")]
    RefreshNodes,
    /// Closes the file of a writer that is gone, with every byte that was acknowledged, and waits until that is done
    RecoverLease(RecoverLeaseArgs),
}

#[derive(Debug, Args)]
struct SafemodeArgs {
    /// What to do
    #[arg(value_enum, default_value_t = SafemodeRequest::Get)]
    action: SafemodeRequest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SafemodeRequest {
    /// Tell whether it is on
    Get,
    /// Make the namespace read-only
    Enter,
    /// Let changes go on
    Leave,
    /// Return once it is off
    Wait,
}

#[derive(Serialize)]
struct SafeModeJson {
    is_on: bool,
    status: String,
    is_manual: bool,
    safe_blocks: u64,
    blocks: u64,
    needed_blocks: u64,
}

impl From<SafeModeStatus> for SafeModeJson {
    fn from(status: SafeModeStatus) -> Self {
        Self {
            is_on: status.is_on,
            status: status.status,
            is_manual: status.is_manual,
            safe_blocks: status.safe_blocks,
            blocks: status.blocks,
            needed_blocks: status.needed_blocks,
        }
    }
}

#[derive(Serialize)]
struct RefreshJson {
    refreshed: bool,
}

#[derive(Serialize)]
struct CheckpointJson {
    checkpoint_txid: u64,
}

impl AdminArgs {
    /// The command's full name, for complaints.
    pub(crate) fn name(&self) -> &'static str {
        match self.command {
            AdminCommand::Report(_) => "admin report",
            AdminCommand::Safemode(_) => "admin safemode",
            AdminCommand::SaveNamespace => "admin save-namespace",
            AdminCommand::RefreshNodes => "admin refresh-nodes",
            AdminCommand::RecoverLease(_) => "admin recover-lease",
        }
    }
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: AdminArgs) -> Outcome {
    match args.command {
        AdminCommand::Report(args) => admin_report::run(ctx, args).await,
        AdminCommand::Safemode(args) => safemode(ctx, args.action).await,
        AdminCommand::SaveNamespace => save_namespace(ctx).await,
        AdminCommand::RefreshNodes => refresh_nodes(ctx).await,
        AdminCommand::RecoverLease(args) => admin_recover_lease::run(ctx, args).await,
    }
}

async fn safemode(ctx: &Context, request: SafemodeRequest) -> Outcome {
    let action = match request {
        SafemodeRequest::Get | SafemodeRequest::Wait => SafeModeAction::Get,
        SafemodeRequest::Enter => SafeModeAction::Enter,
        SafemodeRequest::Leave => SafeModeAction::Leave,
    };
    let mut status = ctx.client.set_safe_mode(&ctx.caller, action).await.map_err(Failure::admin)?;
    while request == SafemodeRequest::Wait && status.is_on {
        tokio::time::sleep(LOOK_INTERVAL).await;
        status = ctx.client.set_safe_mode(&ctx.caller, action).await.map_err(Failure::admin)?;
    }
    if ctx.json() {
        return ctx.output.json(&SafeModeJson::from(status));
    }
    in_words(&status).into_iter().try_for_each(|line| ctx.output.line(line))
}

/// HDFS's words first, which scripts look for; why it is on behind them.
fn in_words(status: &SafeModeStatus) -> Vec<String> {
    let on_or_off = if status.is_on { "Safe mode is ON" } else { "Safe mode is OFF" };
    let mut lines = vec![on_or_off.to_owned()];
    if status.is_on && !status.status.is_empty() {
        lines.push(status.status.clone());
    }
    lines.push(format!(
        "{} of {} blocks have their minimum of replicas; {} are needed to leave at start",
        status.safe_blocks, status.blocks, status.needed_blocks
    ));
    lines
}

async fn refresh_nodes(ctx: &Context) -> Outcome {
    ctx.client.refresh_nodes(&ctx.caller).await.map_err(Failure::admin)?;
    if ctx.json() {
        ctx.output.json(&RefreshJson { refreshed: true })
    } else {
        ctx.output.line("Refresh nodes successful")
    }
}

async fn save_namespace(ctx: &Context) -> Outcome {
    let txid = ctx.client.save_namespace(&ctx.caller).await.map_err(Failure::admin)?;
    if ctx.json() {
        return ctx.output.json(&CheckpointJson { checkpoint_txid: txid.0 });
    }
    ctx.output.line(format!("Save namespace successful: the image holds everything up to transaction {txid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_words_starts_as_hdfs_does() {
        let status = |is_on, status: &str| SafeModeStatus {
            is_on,
            status: status.into(),
            is_manual: is_on,
            safe_blocks: 3,
            blocks: 4,
            needed_blocks: 4,
        };
        let counts = "3 of 4 blocks have their minimum of replicas; 4 are needed to leave at start";
        assert_eq!(in_words(&status(true, "")), ["Safe mode is ON", counts]);
        assert_eq!(in_words(&status(true, "by command")), ["Safe mode is ON", "by command", counts]);
        assert_eq!(in_words(&status(false, "left by command")), ["Safe mode is OFF", counts]);
    }
}

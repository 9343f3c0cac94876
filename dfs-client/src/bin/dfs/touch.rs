//! `dfs touch`: times of files, which are made when they are not there.

use std::ffi::OsString;
use std::sync::Arc;

use chrono::{Local, NaiveDateTime};
use clap::Args;
use dfs_client::{SetAttr, TimeSet};
use dfs_common::ErrorKind;

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::path::DfsPath;
use crate::touchz::{self, TouchedJson};
use crate::tree::{self, Links};

/// HDFS's form of a time.
const TIMESTAMP_FORMAT: &str = "%Y%m%d:%H%M%S";

/// Gives files the time of now, or another; makes those that are not there. A symbolic link stands for its target.
#[derive(Debug, Args)]
pub(crate) struct TouchArgs {
    /// Only the time of the last access
    #[arg(short = 'a')]
    access: bool,
    /// Only the time of the last change
    #[arg(short = 'm')]
    modification: bool,
    /// This time rather than now: yyyyMMdd:HHmmss, in the local zone
    #[arg(short = 't', value_name = "TIMESTAMP", value_parser = parse_timestamp)]
    timestamp: Option<i64>,
    /// Make no files
    #[arg(short = 'c')]
    no_create: bool,
    /// Files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: TouchArgs) -> Outcome {
    let mut touched = Vec::new();
    let outcome = async {
        for arg in &args.paths {
            for path in ctx.tolerate(tree::places(ctx, arg).await)?.unwrap_or_default() {
                touched.extend(ctx.tolerate(touch(ctx, path, &args).await)?.flatten().as_ref().map(PathJson::from));
            }
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &TouchedJson { touched })
}

async fn touch(ctx: &Context, path: DfsPath, args: &TouchArgs) -> Outcome<Option<DfsPath>> {
    let attr = match tree::found(tree::resolve(ctx, path.clone(), Links::Follow).await)? {
        Some(node) if node.is_directory() => return Err(Failure::kind(&path, ErrorKind::IsADirectory)),
        Some(node) => node.attr,
        None if args.no_create => return Ok(None),
        None => {
            let made = touchz::create(ctx, &Target::look_up_followed(ctx, path.clone()).await?, false).await?;
            if made.is_new && args.timestamp.is_none() {
                return Ok(Some(path));
            }
            made.attr
        }
    };
    let set = ctx.client.set_attr(&ctx.caller, attr.inode, args.change()).await;
    set.map_err(|error| Failure::dfs(&path, error))?;
    Ok(Some(path))
}

impl TouchArgs {
    /// Both times, unless exactly one is asked for.
    fn change(&self) -> SetAttr {
        let time = Some(self.timestamp.map_or(TimeSet::Now, TimeSet::At));
        SetAttr {
            atime: time.filter(|_| self.access || !self.modification),
            mtime: time.filter(|_| self.modification || !self.access),
            ..SetAttr::default()
        }
    }
}

fn parse_timestamp(text: &str) -> Result<i64, String> {
    let time = NaiveDateTime::parse_from_str(text, TIMESTAMP_FORMAT).ok();
    let time = time.and_then(|time| time.and_local_timezone(Local).earliest());
    let ns = time.and_then(|time| time.timestamp_nanos_opt());
    ns.ok_or_else(|| format!("{text:?} is no time; write it like 20260131:120000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(access: bool, modification: bool, timestamp: Option<i64>) -> TouchArgs {
        TouchArgs { access, modification, timestamp, no_create: false, paths: Vec::new() }
    }

    #[test]
    fn change_sets_what_is_asked_for() {
        let times = |args: TouchArgs| (args.change().atime, args.change().mtime);
        let (now, then) = (Some(TimeSet::Now), Some(TimeSet::At(7)));
        assert_eq!(times(args(false, false, None)), (now, now));
        assert_eq!(times(args(true, true, Some(7))), (then, then));
        assert_eq!(times(args(true, false, None)), (now, None));
        assert_eq!(times(args(false, true, Some(7))), (None, then));
    }

    #[test]
    fn parse_timestamp_takes_hdfs_form_only() {
        let day = 86_400_000_000_000;
        let distance = parse_timestamp("20260102:120000").unwrap() - parse_timestamp("20260101:120000").unwrap();
        assert_eq!(distance, day);
        for bad in ["", "2026", "20260132:120000", "2026-01-01 12:00:00", "99990101:000000"] {
            assert!(parse_timestamp(bad).is_err(), "{bad}");
        }
    }
}

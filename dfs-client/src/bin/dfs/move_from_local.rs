//! `dfs moveFromLocal`: copies as `put` does, and removes the sources afterwards.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::context::Context;
use crate::copied::Copied;
use crate::crew::{Copying, Crew};
use crate::failure::{Failure, Outcome};
use crate::location;
use crate::put::{self, PutArgs, Storing};

/// Copies local files and directories into the cluster and removes them here.
///
/// Nothing is removed unless everything was copied. What comes into a source meanwhile stays, and so does a file that
/// is changed or replaced.
#[derive(Debug, Args)]
pub(crate) struct MoveFromLocalArgs {
    #[command(flatten)]
    copying: Copying,
    #[command(flatten)]
    storing: Storing,
    /// Local sources, then the destination; without one, a lone source goes into the home directory
    #[arg(required = true, num_args = 1.., value_names = ["SOURCE", "DESTINATION"])]
    paths: Vec<OsString>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: MoveFromLocalArgs) -> Outcome {
    let mut crew = Crew::new(ctx, args.copying.threads);
    let outcome = copy_and_remove(ctx, args, &mut crew).await;
    crew.finish(outcome).await
}

async fn copy_and_remove(ctx: &Arc<Context>, args: MoveFromLocalArgs, crew: &mut Crew) -> Outcome {
    let MoveFromLocalArgs { copying, storing, paths } = args;
    for source in paths.iter().take(paths.len().saturating_sub(1).max(1)).cloned().map(location::local) {
        ctx.tolerate(source.and_then(check))?;
    }
    if ctx.has_failed() {
        return Ok(());
    }
    let copied = Arc::new(Copied::default());
    put::copy(ctx, PutArgs { copying, storing, paths }, Some(Arc::clone(&copied)), crew).await?;
    // Of a source that has failed, copies may still be under way.
    crew.wait().await?;
    if ctx.has_failed() {
        ctx.progress.say("dfs: moveFromLocal: not everything was copied: nothing is removed here");
        return Ok(());
    }
    let removing = tokio::task::spawn_blocking(move || copied.remove()).await;
    for failure in removing.map_err(|error| Failure::refused("removing the sources", error.to_string()))? {
        // Each, whatever kept it from being removed: nothing is left to be done that could fail in the same way.
        ctx.report(&failure);
    }
    Ok(())
}

/// Refuses a source that could be copied and not be removed, or that has no end of its own.
fn check(source: OsString) -> Outcome {
    if source == "-" {
        return Err(Failure::refused("-", "standard input cannot be removed").with_hint("use `dfs put`"));
    }
    let path = PathBuf::from(source);
    let there = fs::metadata(&path).map_err(|error| Failure::local(&path, error))?;
    if there.is_file() || there.is_dir() {
        return Ok(());
    }
    Err(Failure::refused(path.display(), "only files and directories can be moved").with_hint("use `dfs put`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_takes_files_and_directories_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for (link, target) in [("to-file", "file"), ("to-fifo", "fifo"), ("to-nothing", "nothing")] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        for (name, expected) in [
            ("file", ""),
            ("to-file", ""),
            (".", ""),
            ("fifo", "only files and directories can be moved; use `dfs put`"),
            ("to-fifo", "only files and directories can be moved; use `dfs put`"),
            ("to-nothing", "no such file or directory"),
        ] {
            let told = check(at(name).into()).err().map(|failure| failure.to_string()).unwrap_or_default();
            assert!(told.ends_with(expected) && told.is_empty() == expected.is_empty(), "{name}: {told}");
        }
        assert!(check("-".into()).is_err());
    }
}

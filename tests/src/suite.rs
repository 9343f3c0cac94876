//! Test files whose cases share one expensive thing, usually a cluster: made by the first case that runs, torn down
//! after the last. The command line is libtest's own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};

/// What cases share.
pub trait Shared: Send + Sync + 'static {
    /// Makes it; panics when that fails.
    fn set_up() -> Self;

    /// What helps to understand a failure: the ends of the daemons' logs.
    fn diagnostics(&self) -> String;
}

/// A case: its name and its body.
pub type Case<S> = (&'static str, fn(&S));

/// Names functions as cases: `cases![module::function, ...]`.
#[macro_export]
macro_rules! cases {
    ($($function:path),* $(,)?) => { [$((stringify!($function), $function as fn(&_)),)*] };
}

/// Runs the cases that the command line asks for.
pub fn run<S: Shared>(cases: impl IntoIterator<Item = Case<S>>) -> ExitCode {
    let arguments = Arguments::from_args();
    // A case's story is its message and its line; twenty frames of harness would hide both.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "somewhere".to_owned(), ToString::to_string);
        eprintln!("panicked at {place}: {}", describe_panic(panic.payload()));
    }));
    let shared: Arc<OnceLock<Result<S, String>>> = Arc::default();
    let trials = cases.into_iter().map(|(name, body)| {
        let shared = shared.clone();
        Trial::test(name, move || {
            let state = shared.get_or_init(|| catch_unwind(S::set_up).map_err(|panic| describe_panic(&*panic)));
            let state = state.as_ref().map_err(|reason| Failed::from(format!("set-up failed: {reason}")))?;
            catch_unwind(AssertUnwindSafe(|| body(state))).map_err(|panic| describe_panic(&*panic).into())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if conclusion.has_failed()
        && let Some(Ok(state)) = shared.get()
    {
        eprintln!("{}", state.diagnostics());
    }
    // Every case has ended and dropped its share: this drop tears down.
    drop(shared);
    conclusion.exit_code()
}

/// For cases that make their own clusters.
#[derive(Debug)]
pub struct Nothing;

impl Shared for Nothing {
    fn set_up() -> Self {
        crate::process::require_root();
        Self
    }

    fn diagnostics(&self) -> String {
        String::new()
    }
}

fn describe_panic(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without words".to_owned())
}

//! Whether who waits for an answer of the mount is about to die. He cannot die before he has it, and does not need it.
//!
//! Once the mount has taken a request from the kernel, no signal ends the wait for its answer: not SIGKILL either, and the
//! closing of files at the end of a process heeds no signal at all. Nor does the kernel say that one has come: fuser refuses
//! the message for that, and the kernel does not send it again. So /proc is asked about the thread that waits:
//!
//! ```text
//!   it waits in a call, and there came                            how it shows
//!     SIGKILL, or a signal that ends a process at once            SIGKILL is pending: the kernel gives it to all threads
//!     a signal that has a core dumped first (SIGQUIT, SIGABRT)    it is pending, and neither blocked, ignored nor caught
//!   it is at its end, and closes the files of its process
//!     which a signal has ended                                    the signal is in its exit code, and pending no more
//!     which ended by itself                                       not at all: somebody may count on what close does
//! ```
//!
//! - A signal that has a core dumped stays pending for as long as the thread waits that is to take it; only then do the other
//!   threads get a SIGKILL.
//! - Who is traced dies of nothing but SIGKILL unless his tracer wants it.
//! - Who dumps his core into the mount makes calls for it while other signals may still be pending. Only SIGKILL ends that.
//! - Kernels from 6.3 to 6.5 let nobody wait for closing at the end of a process, and have a thread of their own ask for it. All
//!   others wait (the change was taken back in 6.6, because a program that was just written could not be executed yet).
//! - Who waits in the kernel for somebody else's call, such as for the lock of a directory, cannot be seen from here.

use std::time::Duration;

use tokio::task::JoinHandle;

const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// Signals that end nobody who leaves them to the kernel: it ignores them, stops the process or lets it go on.
const HARMLESS: u64 = bit(libc::SIGCHLD)
    | bit(libc::SIGCONT)
    | bit(libc::SIGURG)
    | bit(libc::SIGWINCH)
    | bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU);

/// How long somebody waits for a look. What takes longer is in the way of nobody.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// Looks at one thread, away from the threads that requests run on. During execve the kernel locks parts of /proc/PID until the old
/// program's close-on-exec files are closed. The request we look for may be that close: waiting for the look would be a deadlock.
pub(crate) struct Look {
    thread: u32,
    under_way: Option<JoinHandle<bool>>,
}

impl Look {
    pub(crate) fn at(thread: u32) -> Self {
        Self { thread, under_way: None }
    }

    /// Whether the thread waits only to die, as far as can be seen by now.
    pub(crate) async fn is_being_killed(&mut self) -> bool {
        let thread = self.thread;
        let look = self.under_way.get_or_insert_with(|| tokio::task::spawn_blocking(move || is_being_killed(thread)));
        match tokio::time::timeout(LOOK_MAX, look).await {
            Ok(seen) => {
                self.under_way = None;
                seen.unwrap_or(false)
            }
            Err(_) => false,
        }
    }
}

/// Whether a thread waits only to die. Of one that cannot be seen from here (0: in another pid namespace) nothing is known.
fn is_being_killed(thread: u32) -> bool {
    if thread == 0 {
        return false;
    }
    // Bytes: a program's name is in both.
    let read = |file| std::fs::read(format!("/proc/{thread}/{file}")).unwrap_or_default();
    ended_by_signal(&String::from_utf8_lossy(&read("stat")))
        .unwrap_or_else(|| has_deadly_signal(&String::from_utf8_lossy(&read("status"))))
}

/// Of a thread at its end, whether a signal has ended its process. `None` while it is not at its end: what counts then is
/// what is pending. What is pending later tells of other threads' ends.
fn ended_by_signal(stat: &str) -> Option<bool> {
    /// PF_EXITING of the kernel's flags of a task (field 9 of proc_pid_stat(5)).
    const EXITING: u64 = 4;
    // Fields count from 1. The second is the name in parentheses, and may have blanks and parentheses in it.
    let mut from_third = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let flags: u64 = from_third.nth(9 - 3)?.parse().ok()?;
    if flags & EXITING == 0 {
        return None;
    }
    // As wait(2) gives it; 0 if we may not know.
    let exit_code: i64 = from_third.nth(52 - 10)?.parse().ok()?;
    Some(exit_code & 0x7f != 0)
}

fn has_deadly_signal(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let mask = |name| field(name).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let Some(own) = mask("SigPnd") else { return false };
    if own & bit(libc::SIGKILL) != 0 {
        return true;
    }
    let masks = [mask("ShdPnd"), mask("SigBlk"), mask("SigIgn"), mask("SigCgt")];
    let [Some(shared), Some(blocked), Some(ignored), Some(caught)] = masks else { return false };
    let is_left_to_others =
        ["TracerPid", "CoreDumping"].iter().any(|name| field(name).is_some_and(|value| value != "0"));
    !is_left_to_others && (own | shared) & !(blocked | ignored | caught | HARMLESS) != 0
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

    use super::*;

    /// A process that is killed when a test is done with it.
    pub(crate) struct Program(Child);

    impl Program {
        fn start(script: &str) -> Self {
            let mut shell = Command::new("sh");
            Self(shell.args(["-c", script]).stdin(Stdio::null()).spawn().unwrap())
        }

        /// One that was killed and not waited for.
        pub(crate) fn killed() -> Self {
            let program = Self::start("exec sleep 1000");
            program.signal(Signal::KILL);
            program.wait_until(WaitIdOptions::EXITED);
            program
        }

        pub(crate) fn thread(&self) -> u32 {
            self.0.id()
        }

        fn signal(&self, signal: Signal) {
            kill_process(Pid::from_child(&self.0), signal).unwrap();
        }

        fn wait_until(&self, state: WaitIdOptions) {
            waitid(WaitId::Pid(Pid::from_child(&self.0)), state | WaitIdOptions::NOWAIT).unwrap();
        }
    }

    impl Drop for Program {
        fn drop(&mut self) {
            // It may have ended.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn is_being_killed_is_who_a_signal_has_ended() {
        assert!(is_being_killed(Program::killed().thread()));
        for script in ["exit 0", "exit 9"] {
            let ended = Program::start(script);
            ended.wait_until(WaitIdOptions::EXITED);
            assert!(!is_being_killed(ended.thread()), "{script}");
        }
    }

    #[test]
    fn is_being_killed_is_who_a_core_dumping_signal_waits_for() {
        // Who is stopped takes no signal but SIGKILL and SIGCONT.
        let stopped = |trap: &str| {
            let program = Program::start(&format!("ulimit -c 0; {trap} kill -STOP $$; exit 0"));
            program.wait_until(WaitIdOptions::STOPPED);
            assert!(!is_being_killed(program.thread()), "{trap}");
            program
        };
        for signal in [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::FPE, Signal::SYS] {
            let program = stopped("");
            program.signal(signal);
            assert!(is_being_killed(program.thread()), "{signal:?}");
        }
        for (trap, signal) in [
            ("trap '' ABRT;", Signal::ABORT),
            ("trap : ABRT;", Signal::ABORT),
            ("", Signal::CHILD),
            ("", Signal::URG),
            ("", Signal::WINCH),
            ("", Signal::TSTP),
        ] {
            let program = stopped(trap);
            program.signal(signal);
            assert!(!is_being_killed(program.thread()), "{trap} {signal:?}");
        }
    }

    #[test]
    fn is_being_killed_is_nobody_who_lives_or_is_not_there() {
        assert!(!is_being_killed(0) && !is_being_killed(std::process::id()) && !is_being_killed(u32::MAX));
    }

    fn status(changes: &[(&str, &str)]) -> String {
        let quiet = [
            ("Name", "SigPnd: ffffffffffffffff"),
            ("TracerPid", "0"),
            ("CoreDumping", "0"),
            ("SigPnd", "0000000000000000"),
            ("ShdPnd", "0000000000000000"),
            ("SigBlk", "0000000000000000"),
            ("SigIgn", "0000000000000000"),
            ("SigCgt", "0000000000000000"),
        ];
        let now = |name: &str| changes.iter().find(|(changed, _)| *changed == name).map(|(_, value)| *value);
        quiet.iter().map(|(name, value)| format!("{name}:\t{}\n", now(name).unwrap_or(value))).collect()
    }

    #[test]
    fn has_deadly_signal_heeds_who_decides_about_it() {
        const QUIT: &str = "0000000000000004";
        const KILL: &str = "0000000000000100";
        assert!(!has_deadly_signal("") && !has_deadly_signal(&status(&[])));
        for pending in ["SigPnd", "ShdPnd"] {
            assert!(has_deadly_signal(&status(&[(pending, QUIT)])), "{pending}");
            for spared_by in ["SigBlk", "SigIgn", "SigCgt"] {
                assert!(!has_deadly_signal(&status(&[(pending, QUIT), (spared_by, QUIT)])), "{spared_by}");
            }
            for left_to in [("TracerPid", "17"), ("CoreDumping", "1")] {
                assert!(!has_deadly_signal(&status(&[(pending, QUIT), left_to])), "{left_to:?}");
                assert!(has_deadly_signal(&status(&[("SigPnd", KILL), left_to])), "{left_to:?}");
            }
        }
        // Signals above 31 end a process, too.
        assert!(has_deadly_signal(&status(&[("ShdPnd", "8000000000000000")])));
        assert!(!has_deadly_signal(&status(&[("SigPnd", "what is this")])));
    }

    #[test]
    fn ended_by_signal_is_of_threads_at_their_end() {
        let stat = |flags: u32, exit_code: i32| {
            let between = ["0"; 52 - 10].join(" ");
            format!("7 (a) b (c) S 1 1 1 0 -1 {flags} {between} {exit_code}\n")
        };
        assert_eq!(ended_by_signal(&stat(0x40_0000, 19)), None, "it is stopped");
        assert_eq!(ended_by_signal(&stat(0x40_0004, 9)), Some(true));
        assert_eq!(ended_by_signal(&stat(0x4, 0x86)), Some(true), "with a core dumped");
        for by_itself in [0, 9 << 8] {
            assert_eq!(ended_by_signal(&stat(0x4, by_itself)), Some(false));
        }
        assert_eq!(ended_by_signal("7 (cut off) S 1"), None);
        assert_eq!(ended_by_signal(""), None);
    }
}

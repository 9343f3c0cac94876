//! Command lines as scripts for Hadoop write them: `hdfs dfs -rm -r -skipTrash /a`, `hdfs dfsadmin -safemode get`.
//!
//! They are translated before clap sees them: the word `dfs` goes, a command loses its dash, and an option of several letters
//! with one dash gets the second. Only names that the command itself knows are touched, so that `-rf` stays `-r -f`.
//! `-ptopax` becomes `--preserve=topax`, because clap cannot parse an optional value attached to a short option.

use std::ffi::{OsStr, OsString};

use clap::{Command, CommandFactory};

use crate::cli::Cli;

/// Options that stand before a command and take the next argument as value.
const WITH_VALUE: [&str; 3] = ["-D", "--namenode", "--config"];

/// Commands of ours that are programs of Hadoop's, behind whose names such options may stand.
const PROGRAMS: [&str; 3] = ["admin", "fsck", "balancer"];

/// Names that Hadoop has given up and scripts have not.
const OLD_NAMES: [(&str, [&str; 2]); 3] = [("-lsr", ["ls", "-R"]), ("-rmr", ["rm", "-r"]), ("-dus", ["du", "-s"])];

/// The arguments, the program's name first, as clap takes them.
pub(crate) fn translate(mut args: Vec<OsString>) -> Vec<OsString> {
    let program = Cli::command();
    let mut at = behind_options(&mut args, 1);
    match args.get(at).and_then(|word| word.to_str()) {
        Some("dfs" | "fs") => {
            args.remove(at);
            at = behind_options(&mut args, at);
        }
        Some("dfsadmin") => args[at] = "admin".into(),
        _ => {}
    }
    if let Some((_, words)) = OLD_NAMES.iter().find(|(old, _)| args.get(at).is_some_and(|word| word == old)) {
        args.splice(at..=at, words.map(OsString::from));
    }
    let mut command = &program;
    while let Some(next) = args.get(at).and_then(|word| subcommand_of(command, word)) {
        args[at] = next.get_name().into();
        command = next;
        at += 1;
        if PROGRAMS.contains(&command.get_name()) {
            at = behind_options(&mut args, at);
        }
    }
    if command.get_name() == program.get_name() && args.get(at).is_some_and(|word| word == "-help" || word == "-usage")
    {
        args[at] = "help".into();
    }
    let is_cp = command.get_name() == "cp";
    let knows = |name: &str| [&program, command].into_iter().any(|command| has_option(command, name));
    for arg in args.iter_mut().skip(at).take_while(|arg| *arg != "--") {
        if let Some(letters) = arg.to_str().and_then(preserved_letters).filter(|_| is_cp) {
            *arg = format!("--preserve={letters}").into();
            continue;
        }
        let name = arg.to_str().and_then(|text| text.strip_prefix('-')).filter(|name| name.len() > 1);
        if name.is_some_and(|name| knows(name.split('=').next().unwrap_or(name))) {
            let mut long = OsString::from("-");
            long.push(&*arg);
            *arg = long;
        }
    }
    args
}

/// Where the command is, from `at` on: behind the options that stand before it. Translates `-fs hdfs://HOST:PORT` among them.
fn behind_options(args: &mut [OsString], mut at: usize) -> usize {
    loop {
        at = command_position(args, at);
        let Some([option, uri]) = args.get_mut(at..at + 2) else { return at };
        let authority = uri.to_str().filter(|_| *option == "-fs").and_then(|uri| uri.strip_prefix("hdfs://"));
        let Some(authority) = authority.map(|authority| authority.trim_end_matches('/').to_owned()) else { return at };
        *option = "--namenode".into();
        *uri = authority.into();
    }
}

/// The letters in `-ptopax`, which say what `cp` keeps.
fn preserved_letters(arg: &str) -> Option<&str> {
    let letters = arg.strip_prefix("-p").filter(|letters| !letters.is_empty())?;
    letters.chars().all(|letter| "topax".contains(letter.to_ascii_lowercase())).then_some(letters)
}

/// Where the command is, from `at` on: behind the options that stand before it. None stands behind `--`.
fn command_position(args: &[OsString], mut at: usize) -> usize {
    while let Some(arg) = args.get(at).and_then(|arg| arg.to_str()).filter(|arg| *arg != "--") {
        if WITH_VALUE.contains(&arg) {
            at += 2;
        } else if arg.starts_with("-D") || arg.starts_with("--") {
            at += 1;
        } else {
            break;
        }
    }
    at
}

/// The command that a word names, with a dash before it or without.
fn subcommand_of<'a>(command: &'a Command, word: &OsStr) -> Option<&'a Command> {
    let word = word.to_str()?;
    command.find_subcommand(word.strip_prefix('-').unwrap_or(word))
}

fn has_option(command: &Command, name: &str) -> bool {
    command.get_arguments().any(|option| {
        option.get_long() == Some(name) || option.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> String {
        let args = translate(line.split_whitespace().map(OsString::from).collect());
        args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn translate_takes_hadoop_s_command_lines() {
        for (line, expected) in [
            ("hdfs dfs -ls /a", "hdfs ls /a"),
            ("dfs -ls -R /a", "dfs ls -R /a"),
            ("dfs dfs -D dfs.replication=2 -put -f a /a", "dfs -D dfs.replication=2 put -f a /a"),
            (
                "dfs -Ddfs.replication=2 --namenode h:1 -mkdir -p /a",
                "dfs -Ddfs.replication=2 --namenode h:1 mkdir -p /a",
            ),
            ("hdfs dfs -rm -r -skipTrash /a", "hdfs rm -r --skipTrash /a"),
            ("hdfs dfs -copyFromLocal a /a", "hdfs put a /a"),
            ("hdfs dfs -getmerge -nl -skip-empty-file /a b", "hdfs getmerge --nl --skip-empty-file /a b"),
            ("hdfs dfs -find /a -name x* -print", "hdfs find /a --name x* --print"),
            ("hdfs fsck / -files -blocks -locations", "hdfs fsck / --files --blocks --locations"),
            ("hdfs fsck / -openforwrite", "hdfs fsck / --openforwrite"),
            ("hdfs dfsadmin -safemode get", "hdfs admin safemode get"),
            ("hdfs dfsadmin -refreshNodes", "hdfs admin refresh-nodes"),
            ("hdfs dfsadmin -report -live", "hdfs admin report --live"),
            ("hdfs dfs -help", "hdfs help"),
            ("hadoop fs -fs hdfs://h:1/ -ls /a", "hadoop --namenode h:1 ls /a"),
            ("hdfs -fs hdfs://h:1 dfs -D a=b -ls /a", "hdfs --namenode h:1 -D a=b ls /a"),
            ("hdfs dfs -D a=b -fs hdfs://h:1 -D c=d -ls /a", "hdfs -D a=b --namenode h:1 -D c=d ls /a"),
            ("hdfs dfsadmin -fs hdfs://h:1 -safemode get", "hdfs admin --namenode h:1 safemode get"),
            ("hdfs dfsadmin -D a=b -report -live", "hdfs admin -D a=b report --live"),
            ("hdfs fsck -fs hdfs://h:1 / -files", "hdfs fsck --namenode h:1 / --files"),
            ("hdfs dfs -usage cp", "hdfs help cp"),
            ("hdfs dfs -cp -ptopAX /a /b", "hdfs cp --preserve=topAX /a /b"),
            ("hdfs dfs -cp -f -p /a /b", "hdfs cp -f -p /a /b"),
            ("hdfs dfs -get -ignoreCrc -crc /a", "hdfs get --ignoreCrc --crc /a"),
            ("hdfs dfs -expunge -immediate", "hdfs expunge --immediate"),
            ("hadoop fs -lsr /a", "hadoop ls -R /a"),
            ("hdfs dfs -rmr -skipTrash /a", "hdfs rm -r --skipTrash /a"),
            ("dfs -rm -rf -help", "dfs rm -rf --help"),
        ] {
            assert_eq!(translated(line), expected, "{line}");
        }
    }

    #[test]
    fn translate_leaves_everything_else_alone() {
        for line in [
            "dfs",
            "dfs --json ls /",
            "dfs chmod -R -x /a",
            "dfs put -pt 8 /a /b",
            "dfs cp -pf /a /b",
            "dfs cp -- -pt /b",
            "dfs rm -- -skipTrash",
            "dfs fsck -- -files",
            "dfs admin -- -fs hdfs://h:1",
            "dfs nonsense -files",
            "dfs du -sh dfs",
            "dfs -nonsense",
            "dfs -D",
            "dfs test -fs hdfs://h:1/a",
        ] {
            assert_eq!(translated(line), line);
        }
    }
}

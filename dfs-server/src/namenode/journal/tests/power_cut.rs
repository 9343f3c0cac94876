//! The power goes at every moment of what the NameNode does to its files, and what was promised is there when it is back. Run by
//! hand, the same with every single sync left out: each is missed by some of these, or it would not be needed.

use std::collections::BTreeMap;
use std::path::Path;

use dfs_common::config_file::Config;
use dfs_common::disk::Site;

use super::super::log_files::LogFiles;
use super::super::raft_types::{Entry, Vote};
use super::*;
use crate::namenode::daemon;
use crate::namenode::image::records;
use crate::namenode::storage_dir::list_images;
use crate::power_cut::{Recorder, Scenario};

const NAMESPACE: u32 = 77;

/// What was promised by a moment.
#[derive(Clone, Debug)]
struct Mark<T> {
    moment: usize,
    promised: T,
}

/// What must be there at `moment`, and what may: what was promised by then, and what was begun.
fn promised_at<T: Clone>(marks: &[Mark<T>], moment: usize) -> (T, T) {
    let done = marks.iter().rev().find(|mark| mark.moment <= moment).expect("nothing is promised at the beginning");
    let begun = marks.iter().find(|mark| mark.moment > moment).unwrap_or(done);
    (done.promised.clone(), begun.promised.clone())
}

#[derive(Clone, Debug, Default)]
struct LogPromise {
    entries: usize,
    vote: Option<Vote>,
    purged: Option<u64>,
}

/// Appends small and large, votes, rolls and purges on the files of the log.
fn log_scenario() -> Scenario {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::new(dir.path());
    let mut marks = vec![Mark { moment: 0, promised: LogPromise::default() }];
    let mut log: Vec<Entry> = Vec::new();
    let mut now = LogPromise::default();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    // An empty segment of the smallest size.
    files.roll_if_used().unwrap();
    for step in 0..14_u64 {
        let index = log.len() as u64;
        let numbers = match step {
            // The first does not fit its segment.
            0 => 150_000,
            3 => 400,
            _ => 2,
        };
        match step {
            2 | 9 => {
                now.vote = Some(Vote::new(step, 1));
                files.save_vote(&now.vote.unwrap()).unwrap();
            }
            4 | 6 | 10 => files.roll_if_used().unwrap(),
            8 => {
                now.purged = Some(index - 2);
                files.purge(log[index as usize - 2].log_id).unwrap();
            }
            _ => {
                let new = entry(1, index, (0..numbers).map(|number| number << 33));
                files.append(std::slice::from_ref(&new)).unwrap();
                log.push(new);
                now.entries = log.len();
            }
        }
        marks.push(Mark { moment: recorder.moment(), promised: now.clone() });
    }
    drop(files);
    let check = move |moment: usize, left: &Path| {
        let (promised, begun) = promised_at(&marks, moment);
        let files = LogFiles::open(left, NAMESPACE).map_err(|error| error.chain())?;
        let end = files.index().lock().next_index as usize;
        if end < promised.entries || end > begun.entries {
            return Err(format!("{end} entries of {} to {}", promised.entries, begun.entries));
        }
        let purged = files.purged().map(|log_id| log_id.index);
        if purged < promised.purged || purged > begun.purged {
            return Err(format!("purged {purged:?}, not {:?}", promised.purged));
        }
        let first = purged.map_or(0, |index| index as usize + 1);
        let mut reader = files.index().lock().entries(first as u64, u64::MAX);
        for expected in &log[first..end] {
            let found = reader.next_entry().map_err(|error| error.chain())?;
            if found.map(|entry| entry.log_id) != Some(expected.log_id) {
                return Err(format!("entry {} is another one", expected.log_id.index));
            }
        }
        let vote = files.vote().map_err(|error| error.chain())?;
        if vote != promised.vote && vote != begun.vote {
            return Err(format!("vote {vote:?}, not {:?}", promised.vote));
        }
        Ok(())
    };
    Scenario::new("log", recorder, check)
}

/// A torn frame is cut, and a shorter one is written in its place, whatever the device's sectors are; a longer one behind that may be
/// torn as well, over whatever is there.
fn torn_scenario() -> Scenario {
    let dir = tempfile::tempdir().unwrap();
    let long = entry(1, 3, (1..2_000).map(|number| number << 33));
    let entries = (0..3).map(|index| entry(1, index, [index])).chain([long]);
    let (path, starts) = super::damage::log_of(dir.path(), entries);
    let mut torn = std::fs::read(&path).unwrap();
    torn[starts[3] as usize..][..512].fill(0);
    std::fs::write(&path, torn).unwrap();
    let recorder = Recorder::new(dir.path());
    let mut files = LogFiles::open(dir.path(), super::damage::NAMESPACE).unwrap();
    let mut answer = |index, numbers| {
        files.append(&[entry(2, index, (0..numbers).map(|number| number << 33))]).unwrap();
        recorder.moment()
    };
    let answered = [answer(3, 1), answer(4, 300)];
    drop(files);
    let check = move |moment: usize, left: &Path| {
        let files = LogFiles::open(left, super::damage::NAMESPACE).map_err(|error| error.chain())?;
        let end = files.index().lock().next_index;
        let expected = 3 + answered.iter().filter(|answered| moment >= **answered).count() as u64;
        if end < expected { Err(format!("{end} entries, not {expected}")) } else { Ok(()) }
    };
    Scenario::new("torn frame", recorder, check)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Operations, checkpoints, and an image that was made elsewhere.
fn journal_scenario() -> Scenario {
    let root = formatted();
    let recorder = Recorder::new(root.path());
    let mut marks = vec![Mark { moment: 0, promised: 0_u64 }];
    block_on(async {
        let journal = TestJournal::open(root.path()).await;
        let mut next = 0;
        for round in 0..4 {
            journal.submit_all(next..next + 2).await;
            next += 2;
            marks.push(Mark { moment: recorder.moment(), promised: next });
            if round == 2 {
                journal.journal.roll().await.unwrap();
                super::images::push_from_elsewhere(&journal).await;
            } else {
                journal.journal.checkpoint().await.unwrap();
            }
        }
        journal.close().await;
    });
    let check = move |moment: usize, left: &Path| {
        let (promised, begun) = promised_at(&marks, moment);
        // What has an image's name is one: older images and edits go because of it.
        for image in list_images(&left.join("current")).map_err(|error| error.chain())? {
            ImageReader::open(&image.path).and_then(ImageReader::verify).map_err(|error| error.chain())?;
        }
        block_on(async {
            let journal = TestJournal::try_open(left).await.map_err(|error| error.chain())?;
            let numbers = journal.numbers();
            journal.close().await;
            let count = numbers.len() as u64;
            if count < promised || count > begun || numbers != (0..count).collect::<Vec<_>>() {
                return Err(format!("{count} operations of {promised} to {begun}"));
            }
            Ok(())
        })
    };
    Scenario::new("journal", recorder, check)
}

/// A folder comes to another state: what it wrote is never found as an image.
fn lying_folder_scenario() -> Scenario {
    struct LyingFolder;

    impl Folder for LyingFolder {
        fn fold(&self, _: Option<&Path>, edits: &mut EditReader, header: &ImageHeader, out: &Path) -> Result<()> {
            while edits.next_ops()?.is_some() {}
            ImageWriter::create(out, &ImageHeader { state_digest: 7, ..header.clone() })?.finish()
        }
    }

    let root = formatted();
    let recorder = Recorder::new(root.path());
    block_on(async {
        let journal = TestJournal::with_folder(root.path(), Arc::new(LyingFolder)).await.unwrap();
        journal.submit_all(0..2).await;
        let error = journal.journal.checkpoint().await.unwrap_err();
        assert!(error.message().contains("another state than ours"), "{}", error.message());
        journal.close().await;
    });
    Scenario::new("a folder that lies", recorder, |_, left| match list_images(&left.join("current")) {
        Ok(images) if images.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// A NameNode's directory is made.
fn format_scenario() -> Scenario {
    let dir = tempfile::tempdir().unwrap();
    let recorder = Recorder::new(dir.path());
    let mut config = Config::default();
    config.set(&format!("dfs.namenode.name.dir={}", dir.path().join("a/name").display())).unwrap();
    daemon::format(&config, None).unwrap();
    let done = recorder.moment();
    let check = move |moment: usize, left: &Path| match NameDir::open(&left.join("a/name")) {
        Ok(opened) => match opened.load_newest(records::load).map_err(|error| error.chain())? {
            Some(_) => Ok(()),
            None => Err("formatted, and there is no image".into()),
        },
        Err(error) if error.kind() == dfs_common::error::ErrorKind::NotFound && moment < done => Ok(()),
        Err(error) => Err(error.chain()),
    };
    Scenario::new("format", recorder, check)
}

/// A restored NameNode is told that it may go on.
fn end_of_restore_scenario() -> Scenario {
    let root = formatted();
    std::fs::write(root.path().join("current/RESTORED"), "from a test").unwrap();
    let recorder = Recorder::new(root.path());
    let dir = NameDir::open(root.path()).unwrap();
    dir.end_restore().unwrap();
    let done = recorder.moment();
    drop(dir);
    let check = move |moment: usize, left: &Path| {
        let dir = NameDir::open(left).map_err(|error| error.chain())?;
        if dir.is_restored() && moment >= done { Err("it waits again".into()) } else { Ok(()) }
    };
    Scenario::new("end of a restore", recorder, check)
}

/// A test for each scenario, so that they run side by side, and all of them in a list.
macro_rules! scenarios {
    ($($name:ident: $scenario:path,)*) => {
        $(#[test]
        fn $name() {
            assert_eq!($scenario().broken(None), None);
        })*

        fn scenarios() -> Vec<Scenario> {
            vec![$($scenario(),)*]
        }
    };
}

scenarios! {
    no_loss_of_power_takes_what_the_log_promised: log_scenario,
    no_loss_of_power_takes_more_than_a_torn_frame: torn_scenario,
    no_loss_of_power_brings_a_lying_folders_image_back: lying_folder_scenario,
    no_loss_of_power_leaves_half_a_formatted_directory: format_scenario,
    no_loss_of_power_has_a_restore_wait_again: end_of_restore_scenario,
    no_loss_of_power_takes_what_an_import_promised: crate::namenode::import::tests::power_cut_scenario,
    no_loss_of_power_leaves_half_a_fetched_file: crate::secondary::power_cut_scenario,
    no_loss_of_power_takes_what_the_journal_promised: journal_scenario,
}

#[test]
#[ignore = "looks at every moment once more for each sync; prints what misses it"]
fn every_sync_is_missed_by_some_scenario() {
    let scenarios = scenarios();
    let mut caught: BTreeMap<Site, Option<String>> = BTreeMap::new();
    for scenario in &scenarios {
        for site in scenario.recorder.sync_sites() {
            let by = caught.entry(site).or_default();
            if by.is_none() {
                *by = scenario.broken(Some(site));
            }
        }
    }
    for (site, by) in &caught {
        println!("without the sync at {}:{}: {}", site.file(), site.line(), by.as_deref().unwrap_or("nothing is lost"));
    }
    // A segment is as long as it will be before a frame is written (`spares`), and the record takes lengths for durable.
    let is_for_length = |site: &Site| site.file().ends_with("spares.rs") && line_of(site).contains("file.sync_all()");
    let useless = caught.iter().filter(|(site, by)| by.is_none() && !is_for_length(site));
    let useless: Vec<_> = useless.map(|(site, _)| site.to_string()).collect();
    assert!(useless.is_empty(), "nothing is lost without these syncs: {useless:#?}");
}

/// The line of the product that a site is.
fn line_of(site: &Site) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join(site.file())).unwrap();
    text.lines().nth(site.line() as usize - 1).unwrap_or_default().to_owned()
}

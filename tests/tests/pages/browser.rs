//! The pages in Chromium, on screens from a phone's to a wide one: nothing sticks out at the side.
//!
//! The pages run no script, and their policy lets nobody frame them or look into them. So a page is fetched as it is served, and
//! put with its policy into frames of a local file, of the widths of the screens; the file measures them and writes down
//! what it has found. The skip is printed where there is no Chromium: `scripts/setup --browser` installs it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use dfs_tests::cases;
use dfs_tests::cluster::{Cluster, test_dir};
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, wait_until};
use serde_json::Value;

use super::served::{ODD_NAMES, namenode_page};
use super::{Answer, page};

pub(super) const CASES: [Case<Nothing>; 1] = cases![pages_fit_wide_and_narrow_screens];

/// Widths in CSS pixels: the smallest phone, a usual one, both sides of the page's own border, a desk, a wide screen.
const WIDTHS: [u32; 6] = [320, 390, 885, 900, 1280, 2560];

/// Measures each page at each width: how wide it is, which elements stick out, whether its style is at work.
const MEASURE: &str = r#"
const found = [];
function frame(page, width) {
  return new Promise(done => {
    const frame = document.createElement("iframe");
    frame.style.cssText = `border:0;height:800px;width:${width}px`;
    frame.onload = () => {
      const view = frame.contentDocument.documentElement;
      if (!frame.contentDocument.querySelector("main")) return;
      // A scroll bar takes its part of the width.
      const room = view.clientWidth, out = [];
      for (const element of frame.contentDocument.body.querySelectorAll("*")) {
        const box = element.getBoundingClientRect();
        if (!element.closest("thead") && box.width > 0 && box.right > room + 1) {
          out.push(element.tagName + ": " + element.textContent.trim().slice(0, 60));
        }
      }
      const style = frame.contentWindow.getComputedStyle(frame.contentDocument.querySelector("header"));
      found.push({ page: page.name, width, room, scroll: view.scrollWidth, out, isStyled: style.display == "flex" });
      frame.remove();
      done();
    };
    frame.srcdoc = page.html;
    document.body.append(frame);
  });
}
(async () => {
  for (const page of PAGES) for (const width of WIDTHS) await frame(page, width);
  document.title = "measured";
  const text = document.createElement("pre");
  text.id = "found";
  text.textContent = encodeURIComponent(JSON.stringify(found));
  document.body.replaceChildren(text);
})();
"#;

/// Debian calls it `chromium`, others by longer names.
fn chromium() -> Option<PathBuf> {
    let directories: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names
        .iter()
        .flat_map(|name| directories.iter().map(move |directory| directory.join(name)))
        .find(|path| path.exists())
}

/// The page with the policy that came with it, as a frame can have it.
fn framed(answer: &Answer) -> String {
    let policy = answer.header("content-security-policy").expect("pages have a policy").replace('"', "&quot;");
    // The policy of a page in itself cannot say who may frame it.
    let policy = policy.replace("; frame-ancestors 'none'", "");
    let tag = format!("<head><meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">");
    answer.body.replacen("<head>", &tag, 1)
}

fn measure(chromium: &Path, pages: &[(&str, Answer)]) -> Vec<Value> {
    let directory = test_dir();
    let pages: Vec<Value> =
        pages.iter().map(|(name, answer)| serde_json::json!({"name": name, "html": framed(answer)})).collect();
    // A script ends where its text says so, whatever the string is that it stands in.
    let pages = serde_json::to_string(&pages).expect("encode the pages").replace('<', "\\u003c");
    let file = directory.path().join("measure.html");
    let text = format!(
        "<!doctype html><meta charset=utf-8><body><script>const PAGES = {pages}; const WIDTHS = {WIDTHS:?}; {MEASURE}</script>"
    );
    fs::write(&file, text).expect("write the measuring page");
    let mut command = Command::new(chromium);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=2600,900"]);
    command.arg(format!("--user-data-dir={}", directory.path().join("profile").display()));
    command.args(["--virtual-time-budget=60000", "--dump-dom"]).arg(format!("file://{}", file.display()));
    let output = command.output().expect("run chromium");
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = dom.split_once("<pre id=\"found\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (found, _) = found.unwrap_or_else(|| panic!("chromium measured nothing: {output:?}"));
    serde_json::from_str(&plain(found)).expect("what was measured")
}

/// Undoes `encodeURIComponent`.
fn plain(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (escaped, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(escaped, 16).expect("hexadecimal digits"));
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn pages_fit_wide_and_narrow_screens(_: &Nothing) {
    let Some(chromium) = chromium() else {
        eprintln!(
            "SKIPPED: no chromium in PATH, so the pages' layout was not measured; scripts/setup --browser installs it"
        );
        return;
    };
    let mut cluster = Cluster::builder().datanodes(3).volumes(2).replication(2).start();
    let mount = cluster.mount("mount");
    for name in ODD_NAMES {
        fs::write(mount.join(std::ffi::OsStr::from_bytes(name)), "bytes").expect("write");
    }
    let deep: PathBuf = (0..30).map(|at| format!("directory-{at}-xxxxxxxxxxxxxxxxxxxxxxxxxxxx")).collect();
    fs::create_dir_all(mount.join(&deep)).expect("make directories");
    cluster.datanodes[0].daemon.kill();
    wait_until(REPAIR, "the page to tell of the dead DataNode", || {
        namenode_page(&cluster, "/").body.contains("1 dead")
    });

    let root = namenode_page(&cluster, "/browse/");
    let file =
        root.body.split("href=\"").find(|rest| rest.starts_with("a%20name")).and_then(|rest| rest.split('"').next());
    let file = format!("/browse/{}", file.expect("the file with the long name is listed"));
    let node = &cluster.datanodes[1];
    let pages = [
        ("overview", namenode_page(&cluster, "/")),
        ("directory", root),
        ("deep directory", namenode_page(&cluster, &format!("/browse/{}/", deep.display()))),
        ("file", namenode_page(&cluster, &file)),
        ("DataNode", page(&node.host, node.http_port, "/")),
    ];
    let found = measure(&chromium, &pages);
    assert_eq!(found.len(), pages.len() * WIDTHS.len(), "every page was measured at every width");
    for one in found {
        assert_eq!(one["isStyled"], true, "the policy lets the page have its style: {one}");
        assert!(one["scroll"].as_u64() <= one["room"].as_u64(), "it can be scrolled to the side: {one}");
        assert_eq!(one["out"], Value::Array(Vec::new()), "something sticks out: {one}");
    }
}

//! The git revision that a program is built from.
//!
//! A build script could set an environment variable, but whatever a build script says belongs to the whole package: each commit
//! would build the library anew, for a text of 40 characters. A macro acts where it is written, and only the binary writes it.

use std::{path::Path, process::Command};

use proc_macro::TokenStream;

/// What git answers in `dir`; nothing without git or outside a checkout.
fn git(dir: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(dir).args(words).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}

/// `Some("1c9e...")`, the commit that is checked out where the package is built; `None` without git.
#[proc_macro]
pub fn revision(_: TokenStream) -> TokenStream {
    let dir = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    let dir = Path::new(&dir);
    let Some(revision) = git(dir, &["rev-parse", "HEAD"]) else {
        return "None::<&'static str>".parse().unwrap_or_default();
    };
    // The log of HEAD grows with every commit and every checkout: a file that is included is one that is watched.
    let watched = ["HEAD", "logs/HEAD"].into_iter().filter_map(|name| {
        let path = dir.join(git(dir, &["rev-parse", "--git-path", name])?);
        path.is_file().then(|| format!("const _: &[u8] = include_bytes!({path:?});"))
    });
    let code = format!("{{ {} Some({revision:?}) }}", watched.collect::<String>());
    code.parse().unwrap_or_default()
}

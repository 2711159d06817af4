//! The words of a command line before clap reads them: one pass that makes the spellings of a flag one.
//!
//! * `-` and `_` are the same, and so are upper and lower case where no other flag differs by case: `--batch-size`, `--TAU_I2`.
//! * A flag may be shortened as long as one flag of the command begins so (`--epo`), but never to a word that is a flag of another
//!   command: `gesture --threshold` is a mistake, and not `--threshold-mean`.
//! * A number after a flag is its value, also a negative one.

use std::ffi::OsString;

use clap::{Arg, Command};

/// The words of `cli` with every flag spelled as it is declared. What is no flag of the command stays as it is, for clap to refuse.
pub fn canonical(cli: &Command, words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let words: Vec<OsString> = words.into_iter().collect();
    let all = long_names(cli);
    let mut path = vec![cli];
    let mut out: Vec<OsString> = Vec::with_capacity(words.len());
    let mut rest = words.into_iter().peekable();
    out.extend(rest.next());
    while let Some(word) = rest.next() {
        let text = word.to_string_lossy().into_owned();
        if text == "--" {
            out.push(word);
            out.extend(rest);
            break;
        }
        let Some(typed) = text.strip_prefix("--") else {
            if let Some(command) = path.last().and_then(|c| subcommand(c, &text)).filter(|_| !text.starts_with('-')) {
                path.push(command);
            }
            out.push(word);
            continue;
        };
        let (name, value) = typed.split_once('=').map_or((typed, None), |(name, value)| (name, Some(value)));
        let Some((declared, arg)) = find(&path, &all, name) else {
            out.push(word);
            continue;
        };
        let takes_value = arg.get_action().takes_values();
        match (value, rest.peek().map(|next| next.to_string_lossy().into_owned())) {
            (Some(value), _) => out.push(format!("--{declared}={value}").into()),
            (None, Some(next)) if takes_value && next.starts_with('-') && next.parse::<f64>().is_ok() => {
                rest.next();
                out.push(format!("--{declared}={next}").into());
            }
            // The value of this flag is no command.
            (None, Some(next)) if takes_value && !next.starts_with('-') => {
                out.push(format!("--{declared}").into());
                out.extend(rest.next());
            }
            _ => out.push(format!("--{declared}").into()),
        }
    }
    out
}

fn plain(name: &str) -> String {
    name.replace('_', "-")
}

fn names(arg: &Arg) -> Vec<String> {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long().into_iter().chain(aliases).map(String::from).collect()
}

/// The flags of a command and the global ones, by every name.
fn flags<'a>(path: &[&'a Command]) -> Vec<(String, &'a Arg)> {
    let own = path.last().into_iter().flat_map(|c| c.get_arguments());
    let global = path.iter().flat_map(|c| c.get_arguments().filter(|a| a.is_global_set()));
    own.chain(global).flat_map(|arg| names(arg).into_iter().map(move |name| (name, arg))).collect()
}

/// All names of flags of all commands, plain.
fn long_names(command: &Command) -> Vec<String> {
    let own = command.get_arguments().flat_map(names).map(|name| plain(&name));
    own.chain(command.get_subcommands().flat_map(long_names)).chain(["help".into(), "version".into()]).collect()
}

fn subcommand<'a>(command: &'a Command, word: &str) -> Option<&'a Command> {
    let exact = command.get_subcommands().find(|c| c.get_name() == word);
    let mut begins = command.get_subcommands().filter(|c| c.get_name().starts_with(word));
    exact.or_else(|| begins.next().filter(|_| begins.next().is_none()))
}

/// The flag that a word means, with the name it is declared by.
fn find<'a>(path: &[&'a Command], all: &[String], word: &str) -> Option<(String, &'a Arg)> {
    let known = flags(path);
    let word = plain(word);
    let same = |test: &dyn Fn(&str) -> bool| known.iter().find(|(name, _)| test(&plain(name))).cloned();
    if let Some(found) = same(&|name| name == word).or_else(|| same(&|name| name.eq_ignore_ascii_case(&word))) {
        return Some(found);
    }
    if all.contains(&word) || word.is_empty() {
        return None;
    }
    let begins: Vec<&(String, &Arg)> = known.iter().filter(|(name, _)| plain(name).starts_with(&word)).collect();
    let (first, rest) = begins.split_first()?;
    // Several names of one flag are one.
    rest.iter().all(|(_, arg)| arg.get_id() == first.1.get_id()).then(|| (*first).clone())
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction, Command};

    use super::*;

    fn cli() -> Command {
        Command::new("x")
            .arg(Arg::new("quiet").long("quiet").global(true).action(ArgAction::SetTrue))
            .subcommand(
                Command::new("one")
                    .arg(Arg::new("threshold-mean").long("threshold-mean"))
                    .arg(Arg::new("tau").long("tau_I2").visible_alias("slow"))
                    .arg(Arg::new("dry").long("dry-run").action(ArgAction::SetTrue)),
            )
            .subcommand(Command::new("two").arg(Arg::new("threshold").long("threshold")))
    }

    fn line(text: &str) -> String {
        let words = canonical(&cli(), text.split(' ').map(OsString::from));
        words.iter().map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn spellings_become_one() {
        for (typed, want) in [
            ("x one --tau-I2 5", "x one --tau_I2 5"),
            ("x one --tau_i2=5", "x one --tau_I2=5"),
            ("x one --dry_run --slow 2", "x one --dry-run --slow 2"),
            ("x one --tau_I2 -5 --quiet", "x one --tau_I2=-5 --quiet"),
            ("x one --tau_I2 -inf", "x one --tau_I2=-inf"),
            ("x on --thresh 1 --qui", "x on --threshold-mean 1 --quiet"),
            ("x --quiet two --threshold 1", "x --quiet two --threshold 1"),
            ("x two -- --dry_run", "x two -- --dry_run"),
        ] {
            assert_eq!(line(typed), want, "{typed}");
        }
    }

    #[test]
    fn a_flag_of_another_command_is_never_a_short_form() {
        for typed in ["x one --threshold 1", "x two --dry 1", "x one --slo_ 1", "x two --dry-run", "x one --t 1"] {
            assert_eq!(line(typed), typed);
        }
    }
}

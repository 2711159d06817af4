//! The pages of reference: every flag, from the tree of commands; every setting of a configuration, from the tables, their standard settings and
//! the documentation in the sources. `UPDATE_DOCS=1 cargo test --release --test docs` writes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{Debug, Write as _},
    fs,
};

use etrace::{
    cell::{
        rate::CELLS,
        spiking::{NeuronConfig, SynapseConfig},
    },
    experiment::{Experiment, NetConfig, TaskConfig},
    learn::{Method, Objective, sequence::LearnerConfig},
    settings::{Listed, leaves, range},
    train::{optimizer::Optimizer, settings::Settings},
};
use serde::Serialize;
use toml::Value;

use super::{
    read, root,
    source::{Field, Type, Variant, types},
};

const MADE: &str = "*This page is made from the sources: `UPDATE_DOCS=1 cargo test --release --test docs` writes it, and a test fails where it is not \
                    what they say.*";

/// Compares a page with what it must be, or writes it.
#[track_caller]
fn page(name: &str, text: &str) {
    let path = root().join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, text).expect("a page can be written");
        return;
    }
    let stored = if path.is_file() { read(&path) } else { String::new() };
    let differ = stored.lines().zip(text.lines()).position(|(a, b)| a != b);
    let line = differ.unwrap_or(stored.lines().count().min(text.lines().count()));
    assert!(
        stored == text,
        "{name} is not what the sources say, from line {}:\n  stored  {}\n  now     {}\nUPDATE_DOCS=1 cargo test --release --test docs writes it",
        line + 1,
        stored.lines().nth(line).unwrap_or("(nothing)"),
        text.lines().nth(line).unwrap_or("(nothing)")
    );
}

/// A text as a cell of a table.
fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    // Between backticks nothing is HTML.
    let parts =
        text.split('`').enumerate().map(|(k, part)| if k % 2 == 0 { part.replace('<', "&lt;") } else { part.into() });
    parts.collect::<Vec<String>>().join("`")
}

fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(N));
    rows.iter().for_each(|row| writeln!(out, "| {} |", row.join(" | ")).expect("a text"));
    out
}

/// The anchor of a section, as a link.
fn link(title: &str) -> String {
    format!("[{title}](#{})", super::anchor(title))
}

// Flags.

/// A flag or an argument: how it is written, its default, what it does.
fn flag(arg: &clap::Arg) -> [String; 3] {
    let takes = arg.get_action().takes_values();
    let values = arg.get_value_names().unwrap_or_default().iter().map(|v| v.as_str()).collect::<Vec<_>>().join(" ");
    let value = if takes { values } else { String::new() };
    let short = arg.get_short().map_or(String::new(), |c| format!("-{c}, "));
    let written =
        arg.get_long().map_or(value.clone(), |long| format!("{short}--{long} {value}").trim_end().to_string());
    let also = arg.get_visible_aliases().unwrap_or_default();
    let also: String = also.iter().map(|alias| format!(", `--{alias}`")).collect();
    let shown = takes && !arg.is_hide_default_value_set();
    let defaults = arg.get_default_values().iter().filter(|_| shown).map(|v| format!("`{}`", v.to_string_lossy()));
    let mut default = defaults.collect::<Vec<_>>().join(" ");
    let mut doc = arg.get_help().map_or(String::new(), |help| cell(&help.to_string()));
    // Where a default depends on other things the help says it.
    if let Some((before, said)) = doc.clone().strip_suffix(']').and_then(|doc| doc.split_once(" [default: ")) {
        (doc, default) = (before.to_string(), said.to_string());
    }
    let values: Vec<_> = arg.get_possible_values().into_iter().filter(|v| takes && !v.is_hide_set()).collect();
    if !values.is_empty() {
        let named = values.iter().map(|v| {
            let help = v.get_help().map_or(String::new(), |help| format!(", {}", lower(&cell(&help.to_string()))));
            format!("`{}`{help}", v.get_name())
        });
        write!(doc, ". Values: {}", named.collect::<Vec<_>>().join("; ")).expect("a text");
    }
    [format!("`{written}`{also}"), default, doc]
}

/// A sentence in the middle of another; what begins with an abbreviation stays.
fn lower(text: &str) -> String {
    let text = text.trim_end_matches('.');
    if text.chars().nth(1).is_some_and(char::is_uppercase) {
        return text.into();
    }
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_lowercase().chain(chars).collect())
}

/// The flags of a command below their headings; arguments first, flags of every command left out.
fn sections(command: &clap::Command) -> Vec<(String, Vec<[String; 3]>)> {
    let mut found: Vec<(String, Vec<[String; 3]>)> = Vec::new();
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_global_set());
    for arg in args.filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
        let title = arg.get_help_heading().unwrap_or("").to_string();
        match found.iter_mut().find(|(t, _)| *t == title) {
            Some((_, rows)) => rows.push(flag(arg)),
            None => found.push((title, vec![flag(arg)])),
        }
    }
    found.sort_by_key(|(title, _)| !title.is_empty());
    found
}

/// Calls `look` with every command that does something by itself, and its words.
fn commands(command: &clap::Command, words: &str, look: &mut dyn FnMut(&clap::Command, &str)) {
    let below: Vec<_> = command.get_subcommands().filter(|c| c.get_name() != "help").collect();
    if below.is_empty() {
        look(command, words);
    }
    below.into_iter().for_each(|sub| commands(sub, &format!("{words} {}", sub.get_name()), look));
}

/// Flags below a heading, word for word.
type Group = (String, Vec<[String; 3]>);

/// Groups that several commands have, each with a title of its own and the commands.
fn shared(all: &[(String, clap::Command, Vec<Group>)]) -> Vec<(String, Group, Vec<String>)> {
    let mut users: BTreeMap<&Group, Vec<String>> = BTreeMap::new();
    for (words, _, groups) in all {
        groups
            .iter()
            .filter(|(title, _)| !title.is_empty())
            .for_each(|g| users.entry(g).or_default().push(format!("`{words}`")));
    }
    let mut found: Vec<(String, Group, Vec<String>)> = Vec::new();
    for (group, users) in users.into_iter().filter(|(_, users)| users.len() > 1) {
        let same = found.iter().filter(|(_, other, _)| other.0 == group.0).count();
        let title = if same == 0 { group.0.clone() } else { format!("{} ({})", group.0, same + 1) };
        found.push((title, group.clone(), users));
    }
    found
}

fn flags_page() -> String {
    let cli = etrace::cli::command();
    let mut all = Vec::new();
    commands(&cli, "etrace", &mut |command, words| all.push((words.to_string(), command.clone(), sections(command))));
    let shared = shared(&all);
    let head = ["flag", "default", "what"];
    let mut out = format!(
        "# Every flag\n\n{MADE}\n\nA flag may be shortened (`--epoch` for `--epochs`) and written with `-` or `_`; the names after a comma mean \
         the same. `etrace COMMAND --help` prints these tables. Flags that are accepted for old command lines and do nothing are left out. \
         [Completions and manual pages](quick-start.md#completions-and-manual-pages) know all of them.\n\n## Flags of every command\n\n"
    );
    let global: Vec<_> = cli.get_arguments().filter(|arg| arg.is_global_set()).map(flag).collect();
    out.push_str(&table(head, &global));
    for (title, (_, rows), users) in &shared {
        write!(out, "\n## {title}\n\nFlags of {}.\n\n{}", plain(users), table(head, rows)).expect("a text");
    }
    for (words, command, groups) in &all {
        let about = command.get_about().map_or(String::new(), ToString::to_string);
        write!(out, "\n## {words}\n\n{about}.\n").expect("a text");
        let (common, own): (Vec<_>, Vec<_>) =
            groups.iter().partition(|g| shared.iter().any(|(_, other, _)| other == *g));
        for (title, rows) in own {
            let title = if title.is_empty() { String::new() } else { format!("{title}:\n\n") };
            write!(out, "\n{title}{}", table(head, rows)).expect("a text");
        }
        let links: Vec<String> =
            shared.iter().filter(|(_, g, _)| common.contains(&g)).map(|(title, ..)| link(title)).collect();
        if !links.is_empty() {
            write!(out, "\nAlso the flags under {}.\n", plain(&links)).expect("a text");
        }
    }
    out
}

/// `a`, `b` and `c`.
fn plain(names: &[String]) -> String {
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.join(""),
    }
}

#[test]
fn the_page_of_flags_is_that_of_the_commands() {
    page("docs/flags.md", &flags_page());
}

// Settings.

/// What a type takes, in words; a link where a section says it.
struct Words {
    types: BTreeMap<String, Vec<Type>>,
    /// Enums that rows have named, with the titles of their sections.
    named: Vec<(String, String)>,
    /// Settings for which there is a row, by their path.
    told: BTreeSet<String>,
}

impl Words {
    fn find(&self, name: &str) -> Option<Type> {
        let all = self.types.get(name)?;
        assert!(all.len() == 1, "{} types that are stored are called {name}: rename one", all.len());
        Some(all[0].clone())
    }

    /// What a field takes; `row` is the name of the thing that has it.
    fn of(&mut self, field: &Field, row: &str) -> String {
        if let Some(range) = &field.range {
            return in_range(range);
        }
        let inner = field.of.strip_prefix("Option<").and_then(|t| t.strip_suffix('>')).unwrap_or(&field.of);
        let words = match inner {
            "f64" | "f32" => "a number",
            "usize" | "u64" | "u32" | "u16" => "a whole number",
            "bool" => "`true` or `false`",
            "String" => "a text",
            "PathBuf" => "a folder",
            "(f64, f64)" | "f64, f64" => "two numbers",
            "Vec<usize>" | "Vec<u64>" | "Vec<i64>" => "a list of whole numbers",
            "Vec<f32>" => "a list of numbers",
            "Vec<String>" => "a list of texts",
            "Vec<[String; 2]>" => "a list of pairs of names",
            "BTreeMap<String, Node>" => "a table for each node ([NIR](nir.md))",
            "Vec<Tau>" => return format!("a list, for each layer {}", self.choice("Tau", "tau", row)),
            "TaskConfig" => return link("Tasks"),
            "NetConfig" => return link("Networks"),
            "NeuronConfig" => return link("Neurons"),
            "SynapseConfig" => return link("Synapses"),
            "RateCell" => return link("Rate cells"),
            "Method" => return link("Learning rules"),
            other => return self.choice(other, &field.name, row),
        };
        words.to_string()
    }

    /// A link to the values of an enum, which the section is called after the field that is met first.
    fn choice(&mut self, name: &str, field: &str, row: &str) -> String {
        assert!(
            matches!(self.find(name), Some(Type::Enum(_))),
            "the reference does not know the type {name}; add words for it"
        );
        let known = self.named.iter().find(|(known, _)| known == name).map(|(_, title)| title.clone());
        let title = known.unwrap_or_else(|| {
            let plain = format!("Values of `{field}`");
            let taken = self.named.iter().any(|(_, title)| *title == plain);
            let title = if taken { format!("{plain} of `{row}`") } else { plain };
            self.named.push((name.to_string(), title.clone()));
            title
        });
        format!("[one of these](#{})", super::anchor(&title))
    }

    /// The default of a field that standard settings leave out.
    fn absent(&self, field: &Field) -> String {
        match self.find(&field.of) {
            Some(Type::Enum(choice)) => {
                let standard = choice.variants.iter().find(|variant| variant.standard);
                standard.map_or("none".into(), |variant| format!("`\"{}\"`", variant.name))
            }
            _ if field.of == "bool" => "`false`".into(),
            _ => "none".into(),
        }
    }

    /// Rows for the fields of a struct. `standard` has the defaults.
    fn rows(&mut self, name: &str, path: &str, prefix: &str, standard: &Value) -> Vec<[String; 3]> {
        let Some(Type::Struct(fields)) = self.find(name) else { panic!("no struct that is stored is called {name}") };
        let mut rows = Vec::new();
        for field in fields {
            let at = standard.get(&field.name);
            let key = format!("{prefix}{}", field.name);
            let inner = field.of.strip_prefix("Option<").and_then(|t| t.strip_suffix('>')).unwrap_or(&field.of);
            self.told.insert(format!("{path}{}", field.name));
            if matches!(self.find(inner), Some(Type::Struct(_))) {
                let empty = Value::Table(toml::Table::new());
                rows.extend(self.rows(
                    inner,
                    &format!("{path}{}.", field.name),
                    &format!("{key}."),
                    at.unwrap_or(&empty),
                ));
                continue;
            }
            let default = at.map_or_else(|| self.absent(&field), |value| format!("`{}`", inline(value)));
            let row = path.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
            let takes = self.of(&field, row);
            assert!(!field.doc.is_empty(), "{path}{} has no documentation", field.name);
            rows.push([format!("`{key}`"), format!("{takes}; {default}"), cell(&field.doc)]);
        }
        rows
    }
}

/// A value on one line: a thing with a name as the name, and of what is longer than a line its beginning.
fn inline(value: &Value) -> String {
    match value {
        Value::Float(x) if x.abs() < 1e-3 && *x != 0.0 => format!("{x:e}"),
        Value::Table(table) if table.len() == 1 && table.contains_key("scalar") => inline(&table["scalar"]),
        Value::Table(table) if table.contains_key("name") => table["name"].to_string(),
        other => {
            let text = other.to_string();
            let short: String = text.trim().chars().take(72).collect();
            if short.len() < text.trim().len() { format!("{short} ..") } else { short }
        }
    }
}

fn in_range(reader: &str) -> String {
    let number = |range: range::Range| format!("a number {}", range.words.trim_end_matches(" and finite"));
    let count = |count: range::Count| format!("a whole number from {}", count.low);
    match reader {
        "finite" => "a number".into(),
        "positive" => number(range::POSITIVE),
        "non_negative" => number(range::NON_NEGATIVE),
        "fraction" => number(range::FRACTION),
        "below_one" => number(range::BELOW_ONE),
        "share" => number(range::SHARE),
        "inside" => number(range::INSIDE),
        "size" => count(range::SIZE),
        "layers" => count(range::LAYERS),
        "passes" => count(range::PASSES),
        "steps" => count(range::STEPS),
        "span" => count(range::SPAN),
        "threads" => count(range::THREADS),
        other => panic!("the reference does not know the range {other}; add words for it"),
    }
}

fn value(of: &impl Serialize) -> Value {
    Value::try_from(of).expect("settings are TOML")
}

const HEAD: [&str; 3] = ["setting", "takes; default", "what"];

fn section(words: &mut Words, out: &mut String, title: &str, name: &str, standard: &impl Serialize) {
    let mut standard = value(standard);
    if title == "learner" {
        // The one number that a standard configuration leaves out.
        standard
            .as_table_mut()
            .expect("a table")
            .insert("lag_tolerance".into(), LearnerConfig::default().lag_tolerance.into());
    }
    let path = format!("{title}.");
    let rows = words.rows(name, &path, "", &standard);
    let known: BTreeSet<String> = words.told.clone();
    for (leaf, _) in leaves(&standard) {
        let told = known.iter().any(|path| format!("{title}.{leaf}").starts_with(path.as_str()));
        assert!(told, "{title}.{leaf} is stored, but the sources do not say what it is");
    }
    write!(out, "\n{}", table(HEAD, &rows)).expect("a text");
}

/// A section for each row of a table.
fn listed<T: Listed + Serialize + Debug>(words: &mut Words, out: &mut String, title: &str, key: &str) {
    write!(out, "\n## {title}\n\nThe name goes to `{key}.{}`; `--set {key}=NAME` exchanges the whole.\n", T::TAG)
        .expect("a text");
    for row in T::ROWS {
        let standard = (row.standard)();
        // `Lif(Lif { tau: .. })`: the type is what the variant holds.
        let shown = format!("{standard:?}");
        let name: String =
            shown.split('(').nth(1).unwrap_or_default().chars().take_while(char::is_ascii_alphanumeric).collect();
        let mut stored = value(&standard);
        stored.as_table_mut().expect("a table").remove(T::TAG);
        let also: Vec<String> = row.aliases.iter().map(|alias| format!("`{alias}`")).collect();
        let also = if also.is_empty() { String::new() } else { format!(" Also {}.", also.join(", ")) };
        write!(out, "\n### `{}` ({title})\n\n{}{also}\n", row.name, row.doc.trim().trim_end_matches('.'))
            .expect("a text");
        let rows = words.rows(&name, &format!("{key}.{}.", row.name), "", &stored);
        if rows.is_empty() {
            out.push_str("\nNo settings.\n");
        } else {
            write!(out, "\n{}", table(HEAD, &rows)).expect("a text");
        }
    }
}

/// A value of an enum: how it is written, what it is, what belongs to it.
fn value_row(words: &mut Words, variant: &Variant, tag: Option<&str>) -> [String; 3] {
    let Variant { name, fields, of, .. } = variant;
    let more = match (of, fields.is_empty()) {
        (Some(of), _) => words.of(&Field { of: of.clone(), ..Field::default() }, name),
        (None, true) => String::new(),
        (None, false) => {
            let each = fields.iter().map(|f| format!("`{}` ({}): {}", f.name, words.of(f, name), lower(&cell(&f.doc))));
            each.collect::<Vec<_>>().join("; ")
        }
    };
    let written = match (tag, more.is_empty()) {
        (Some(tag), true) => format!("`{{ {tag} = \"{name}\" }}`"),
        (Some(tag), false) => format!("`{{ {tag} = \"{name}\", .. }}`"),
        (None, true) => format!("`\"{name}\"`"),
        (None, false) if of.is_some() => format!("`{{ {name} = .. }}`"),
        (None, false) => format!("`{{ {name} = {{ .. }} }}`"),
    };
    [written, cell(&variant.doc), more]
}

/// Sections for the enums that rows have named, and for those that these name.
fn choices(words: &mut Words, out: &mut String) {
    out.push_str("\n## Values\n");
    for k in 0.. {
        let Some((name, title)) = words.named.get(k).cloned() else { break };
        let Some(Type::Enum(choice)) = words.find(&name) else { panic!("{name} is an enum") };
        let rows: Vec<[String; 3]> =
            choice.variants.iter().map(|variant| value_row(words, variant, choice.tag.as_deref())).collect();
        let tabled = if rows.iter().any(|row| !row[2].is_empty()) {
            table(["value", "what", "with"], &rows)
        } else {
            table(["value", "what"], &rows.into_iter().map(|[value, what, _]| [value, what]).collect::<Vec<_>>())
        };
        write!(out, "\n### {title}\n\n{}\n\n{tabled}", choice.doc).expect("a text");
    }
}

fn configuration_page() -> String {
    let mut words = Words { types: types(), named: Vec::new(), told: BTreeSet::new() };
    let mut out = format!(
        "# The configuration file\n\n{MADE}\n\n`config.toml` of a run, and what `etrace train CONFIG.toml` reads, has six tables. `etrace train PRESET \
         --dry-run` prints one that is complete; `--set TABLE.SETTING=VALUE` changes a setting. Of `[task]`, `[net]` and what is inside them a \
         file may leave out what has its default; settings that nobody knows are refused by name. Times are in ms where nothing else is said. \
         How files are used: [runs](runs.md), [own network](own-network.md).\n"
    );
    let e = Experiment::published("dms-small").expect("a preset");
    let full = |text: &str| format!("\n## {text}\n");
    out.push_str(&full("Settings of a run"));
    out.push_str("\n`[settings]`:\n");
    section(&mut words, &mut out, "settings", "Settings", &Settings::default());
    out.push_str(&full("Learner"));
    out.push_str("\n`[learner]`:\n");
    section(&mut words, &mut out, "learner", "LearnerConfig", &LearnerConfig { warmup: 0, ..e.learner.clone() });
    out.push_str(&full("Optimiser"));
    out.push_str("\n`[optimizer]`:\n");
    section(&mut words, &mut out, "optimizer", "Optimizer", &Optimizer::default());
    out.push_str(&full("Objective"));
    out.push_str("\n`[objective]`:\n");
    section(&mut words, &mut out, "objective", "Objective", &Objective::default());
    listed::<TaskConfig>(&mut words, &mut out, "Tasks", "task");
    listed::<NetConfig>(&mut words, &mut out, "Networks", "net");
    listed::<NeuronConfig>(&mut words, &mut out, "Neurons", "net.neuron");
    listed::<SynapseConfig>(&mut words, &mut out, "Synapses", "net.synapse");
    out.push_str(
        "\n## Rate cells\n\nValues of `net.cell` of a `rate` network; `--set net=NAME` chooses network and cell.\n\n",
    );
    let cells: Vec<_> = CELLS.iter().map(|r| [format!("`{}`", r.name), r.aliases.join(", "), cell(r.doc)]).collect();
    out.push_str(&table(["name", "also", "what"], &cells));
    listed::<Method>(&mut words, &mut out, "Learning rules", "learner.method");
    choices(&mut words, &mut out);
    out
}

#[test]
fn the_page_of_settings_is_that_of_the_sources() {
    let text = configuration_page();
    page("docs/configuration.md", &text);
}

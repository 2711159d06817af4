//! What the sources say of the types that a configuration is made of: their fields and variants, with documentation. The sources are formatted
//! by rustfmt, so that a line tells what it is.

use std::collections::BTreeMap;

use super::{files, read};

/// A field of a struct or of a variant.
#[derive(Clone, Debug, Default)]
pub struct Field {
    pub name: String,
    /// Its type as it is written.
    pub of: String,
    pub doc: String,
    /// The range that its reader declares: `positive`.
    pub range: Option<String>,
    /// Whether no configuration has it.
    pub skipped: bool,
}

/// A variant of an enum.
#[derive(Clone, Debug, Default)]
pub struct Variant {
    /// As it is written in a configuration.
    pub name: String,
    pub doc: String,
    pub fields: Vec<Field>,
    /// What it holds without a name: the type.
    pub of: Option<String>,
    /// Whether it is the standard one.
    pub standard: bool,
}

/// A type of a configuration.
#[derive(Clone, Debug)]
pub enum Type {
    Struct(Vec<Field>),
    Enum(Choice),
}

/// An enum.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The key of the variant's name, if it is one of a table.
    pub tag: Option<String>,
    pub doc: String,
    pub variants: Vec<Variant>,
}

/// Documentation and attributes in front of an item.
#[derive(Default)]
struct Head {
    doc: Vec<String>,
    attributes: String,
}

impl Head {
    /// Whether the line belongs to the head.
    fn takes(&mut self, line: &str) -> bool {
        if let Some(doc) = line.strip_prefix("///") {
            self.doc.push(doc.trim().to_string());
        } else if line.starts_with("#[") || line.starts_with(")]") {
            self.attributes.push_str(line);
        } else {
            return false;
        }
        true
    }

    /// The value of `key = "value"` among the attributes.
    fn attribute(&self, key: &str) -> Option<String> {
        let rest = self.attributes.split(&format!("{key} = \"")).nth(1)?;
        rest.split('"').next().map(str::to_string)
    }

    /// The first paragraph, as Markdown of a table's cell.
    fn text(&self) -> String {
        let lines = self.doc.iter().take_while(|line| !line.is_empty());
        let text = lines.cloned().collect::<Vec<_>>().join(" ");
        // Links to items mean nothing outside of rustdoc.
        text.replace("[`", "`").replace("`]", "`").trim().to_string()
    }

    fn field(self, line: &str) -> Option<Field> {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let (name, of) = line.strip_suffix(',')?.split_once(": ")?;
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let range =
            self.attribute("deserialize_with").and_then(|reader| Some(reader.strip_prefix("range::")?.to_string()));
        let skipped = self.attributes.contains("skip_deserializing");
        let name = self.attribute("rename").unwrap_or_else(|| name.to_string());
        plain.then(|| Field { name, of: of.to_string(), doc: self.text(), range, skipped })
    }
}

/// `SingleStep` as `rename_all` has it.
fn renamed(name: &str, style: Option<&str>) -> String {
    let separator = match style {
        Some("kebab-case") => "-",
        Some("snake_case") => "_",
        Some("lowercase") => "",
        _ => return name.to_string(),
    };
    let mut out = String::new();
    for (k, c) in name.char_indices() {
        if c.is_uppercase() && k > 0 {
            out.push_str(separator);
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// The fields up to the line that closes the item, which is as far to the left as `indent`.
fn fields<'a>(lines: &mut impl Iterator<Item = &'a str>, indent: usize) -> Vec<Field> {
    let (mut found, mut head) = (Vec::new(), Head::default());
    for line in lines {
        if depth(line) <= indent && !line.trim().is_empty() {
            break;
        }
        if !head.takes(line.trim()) {
            found.extend(std::mem::take(&mut head).field(line.trim()));
        }
    }
    found.retain(|field| !field.skipped);
    found
}

fn variants<'a>(lines: &mut impl Iterator<Item = &'a str>, style: Option<&str>) -> Vec<Variant> {
    let (mut found, mut head) = (Vec::new(), Head::default());
    while let Some(line) = lines.next() {
        if line.starts_with('}') {
            break;
        }
        let text = line.trim();
        if head.takes(text) || text.is_empty() {
            continue;
        }
        let ident: String = text.chars().take_while(char::is_ascii_alphanumeric).collect();
        let head = std::mem::take(&mut head);
        let inside = if text.ends_with('{') { fields(lines, depth(line)) } else { Vec::new() };
        let name = head.attribute("rename").unwrap_or_else(|| renamed(&ident, style));
        if !ident.is_empty() && !head.attributes.contains("skip_deserializing") {
            let standard = head.attributes.contains("#[default]");
            let of = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix("),")).map(str::to_string);
            found.push(Variant { name, doc: head.text(), fields: inside, of, standard });
        }
    }
    found
}

fn depth(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The types of a source that are stored, by name.
fn types_of(text: &str, found: &mut BTreeMap<String, Vec<Type>>) {
    let (mut head, mut lines) = (Head::default(), text.lines());
    while let Some(line) = lines.next() {
        if head.takes(line) {
            continue;
        }
        let head = std::mem::take(&mut head);
        let rest = line.strip_prefix("pub ").unwrap_or(line);
        let opened = rest.strip_suffix(" {").or(rest.strip_suffix(" {}"));
        let Some((kind, name)) = opened.and_then(|rest| rest.split_once(' ')) else { continue };
        let stored = ["Serialize", "Deserialize"].iter().any(|what| head.attributes.contains(what));
        let made = match kind {
            "struct" if stored && rest.ends_with('}') => Type::Struct(Vec::new()),
            "struct" if stored => Type::Struct(fields(&mut lines, 0)),
            "enum" if stored => {
                let variants = variants(&mut lines, head.attribute("rename_all").as_deref());
                Type::Enum(Choice { tag: head.attribute("tag"), doc: head.text(), variants })
            }
            _ => continue,
        };
        found.entry(name.to_string()).or_default().push(made);
    }
}

/// All types of the sources that are stored in files.
pub fn types() -> BTreeMap<String, Vec<Type>> {
    let mut found = BTreeMap::new();
    files(&["src", "tasks/src"], "rs").iter().for_each(|path| types_of(&read(path), &mut found));
    found
}

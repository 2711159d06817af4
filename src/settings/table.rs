//! A closed list as one table: what can be chosen, each thing one row.
//!
//! ```text
//! table! {
//!     /// Which neurons a layer has.
//!     pub enum NeuronConfig: dyn Neuron, tag "name", a "neuron" {
//!         /// Leaky integrate-and-fire.
//!         Lif(Lif) = "lif" | "if";
//!     }
//! }
//! ```
//!
//! makes an enum with a variant for each row, which behaves as the trait it names (it dereferences to it), is stored as a table
//! of the row's settings with its name under the tag, and can also be written as the name alone, for the standard settings.

use toml::Value;

use super::node::{SettingError, choices};

/// One thing that can be chosen.
pub struct Row<T: 'static> {
    /// Its name in configurations and on the command line.
    pub name: &'static str,
    /// Other names that mean the same.
    pub aliases: &'static [&'static str],
    /// What it is, in one line.
    pub doc: &'static str,
    /// The thing with its standard settings.
    pub standard: fn() -> T,
    /// The thing with the settings of a table; what the table leaves out is standard.
    pub read: fn(Value) -> Result<T, SettingError>,
}

/// A name without regard to case, `_` or `-`.
pub fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace('_', "-")
}

/// What [`table!`](crate::table) makes: a thing that was chosen from a table.
pub trait Listed: Sized + 'static {
    /// What a row is, with its article, for messages.
    const WHAT: &'static str;
    /// The key that holds the name of the row.
    const TAG: &'static str;
    /// The table.
    const ROWS: &'static [Row<Self>];

    /// The row it was chosen from.
    fn row(&self) -> &'static Row<Self>;

    /// Things that have a name but no row of their own, such as the product of a neuron and a synapse.
    fn composed(name: &str) -> Option<Self> {
        let _ = name;
        None
    }

    /// The row of a name or an alias.
    fn find(name: &str) -> Option<&'static Row<Self>> {
        let name = plain(name);
        Self::ROWS.iter().find(|row| std::iter::once(&row.name).chain(row.aliases).any(|n| plain(n) == name))
    }

    /// The thing of that name, with its standard settings.
    ///
    /// # Errors
    /// When there is none; the error lists the names.
    fn by_name(name: &str) -> Result<Self, SettingError> {
        let found = Self::find(name).map(|row| (row.standard)()).or_else(|| Self::composed(name));
        found.ok_or_else(|| {
            SettingError::new(format!("knows no {} `{name}`; {}", Self::WHAT, choices(name, &Self::names())))
        })
    }

    /// All names, without aliases.
    fn names() -> Vec<&'static str> {
        Self::ROWS.iter().map(|row| row.name).collect()
    }

    /// The thing that a value describes: a name, or a table with the name under the tag.
    ///
    /// # Errors
    /// When there is no such thing, or its settings are not as they must be.
    fn of(value: Value) -> Result<Self, SettingError> {
        let mut table = match value {
            Value::String(name) => return Self::by_name(&name),
            Value::Table(table) => table,
            other => {
                let text = format!("must be the name of a {} or a table with `{}`, got {other}", Self::WHAT, Self::TAG);
                return Err(SettingError::new(text));
            }
        };
        let Some(tag) = table.remove(Self::TAG) else {
            let names = Self::names().join(", ");
            return Err(SettingError::new(format!("needs the setting `{}`, one of {names}; add it", Self::TAG)));
        };
        let Some(name) = tag.as_str() else {
            return Err(SettingError::new(format!("must be a name, got {tag}")).within(Self::TAG));
        };
        match Self::find(name) {
            Some(row) => (row.read)(Value::Table(table)),
            None if table.is_empty() => Self::by_name(name).map_err(|e| e.within(Self::TAG)),
            None => match Self::composed(name) {
                Some(_) => {
                    let text =
                        format!("`{name}` is a short name and takes no further settings; write it as a name alone");
                    Err(SettingError::new(format!("must be the name of a row: {text}")).within(Self::TAG))
                }
                None => Self::by_name(name).map_err(|e| e.within(Self::TAG)),
            },
        }
    }
}

/// The rows as lines of help: name, aliases, documentation.
pub fn lines<T: Listed>() -> Vec<[String; 3]> {
    T::ROWS.iter().map(|row| [row.name.to_string(), row.aliases.join(", "), row.doc.trim().to_string()]).collect()
}

/// Makes an enum from a table; see the [module](self).
#[macro_export]
macro_rules! table {
    (
        $(#[$meta:meta])*
        $vis:vis enum $Enum:ident: dyn $Trait:path, tag $tag:tt, a $what:literal $(, else $composed:path)? {
            $($(#[doc = $doc:literal])+ $Variant:ident($Settings:ty) = $name:tt $(| $alias:tt)*;)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, ::serde::Serialize)]
        #[serde(tag = $tag)]
        $vis enum $Enum {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $Variant($Settings),)+
        }

        impl $crate::settings::Listed for $Enum {
            const WHAT: &'static str = $what;
            const TAG: &'static str = $tag;
            const ROWS: &'static [$crate::settings::Row<$Enum>] = &[$($crate::settings::Row {
                name: $name,
                aliases: &[$($alias),*],
                doc: concat!($($doc),+),
                standard: || $Enum::$Variant(<$Settings>::default()),
                read: |value| $crate::settings::read::<$Settings>(value).map($Enum::$Variant),
            }),+];

            fn row(&self) -> &'static $crate::settings::Row<$Enum> {
                let name = match self { $($Enum::$Variant(_) => $name),+ };
                Self::find(name).expect("every variant has a row")
            }

            $(fn composed(name: &str) -> Option<$Enum> {
                $composed(name)
            })?
        }

        impl<'de> ::serde::Deserialize<'de> for $Enum {
            fn deserialize<D: ::serde::Deserializer<'de>>(from: D) -> Result<$Enum, D::Error> {
                let value = <::toml::Value as ::serde::Deserialize>::deserialize(from)?;
                <$Enum as $crate::settings::Listed>::of(value).map_err(<D::Error as ::serde::de::Error>::custom)
            }
        }

        impl ::std::ops::Deref for $Enum {
            type Target = dyn $Trait;

            fn deref(&self) -> &Self::Target {
                match self { $($Enum::$Variant(settings) => settings),+ }
            }
        }

        impl ::std::ops::DerefMut for $Enum {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self { $($Enum::$Variant(settings) => settings),+ }
            }
        }

        $(impl From<$Settings> for $Enum {
            fn from(settings: $Settings) -> $Enum {
                $Enum::$Variant(settings)
            }
        })+
    };
}

//! The same programs through the `xla` crate (feature `xla-rs`).
//!
//! The `xla` crate links a prebuilt C++ bundle of XLA instead of loading a plugin. This module is a second,
//! independent way to run a [`Program`], for comparing results and for platforms without a plugin. It needs
//! the bundle `xla_extension` (its folder named by `XLA_EXTENSION_DIR`), a C++ compiler and libclang; nothing
//! else in the workspace depends on it. With `DOCS_RS=1` it can be type-checked without the bundle.
//!
//! It does less than [`pjrt`](crate::pjrt): arguments are never donated, because the crate's calls only borrow
//! them, so the aliases of a module are removed before it is compiled; nothing is cached; there are no
//! memory figures. Arguments are checked in the same way.

use crate::{
    Program,
    array::{Array, ArrayError},
    shape::{DType, Shape},
};

/// An error of this module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The `xla` crate or the library under it refused.
    #[error("XLA refused {during}: {source}")]
    Xla {
        /// What was being done.
        during: &'static str,
        /// Its own words.
        source: xla::Error,
    },
    /// Too few or too many arguments.
    #[error("program `{program}` takes {expected} arguments, got {got}; fix: pass one array for each")]
    ArgumentCount {
        /// The program.
        program: String,
        /// Arguments it takes.
        expected: usize,
        /// Arguments given.
        got: usize,
    },
    /// An argument of another type or other sizes.
    #[error(
        "program `{program}`, argument {index} `{name}`: must be {expected}, got {got}; fix: pass an array of {expected}"
    )]
    ArgumentShape {
        /// The program.
        program: String,
        /// Position of the argument.
        index: usize,
        /// Its name.
        name: String,
        /// What it must be.
        expected: Shape,
        /// What was passed.
        got: Shape,
    },
    /// The run returned another number of results than the signature promises.
    #[error(
        "program `{program}`: signature promises {expected} results, the run returned {got}; fix: this is a defect of the graph that built the program"
    )]
    ResultCount {
        /// The program.
        program: String,
        /// Results of the signature.
        expected: usize,
        /// Results returned.
        got: usize,
    },
    /// A result is not what the signature promises.
    #[error(transparent)]
    Array(#[from] ArrayError),
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn during(during: &'static str) -> impl FnOnce(xla::Error) -> Error {
    move |source| Error::Xla { during, source }
}

/// A device, driven through the `xla` crate.
pub struct Client(xla::PjRtClient);

/// A program compiled through the `xla` crate.
pub struct Executable {
    inner: xla::PjRtLoadedExecutable,
    program: Program,
}

impl Client {
    /// The processor.
    ///
    /// # Errors
    /// [`Error::Xla`] if the client cannot be made.
    pub fn cpu() -> Result<Client> {
        xla::PjRtClient::cpu().map(Client).map_err(during("to open the CPU"))
    }

    /// An NVIDIA GPU, with this share of its memory set aside at the start.
    ///
    /// # Errors
    /// [`Error::Xla`] if there is no GPU, or the bundle was built without CUDA.
    pub fn gpu(memory_fraction: f64) -> Result<Client> {
        xla::PjRtClient::gpu(memory_fraction, true).map(Client).map_err(during("to open the GPU"))
    }

    /// Name of the platform: `cpu`, `cuda`, ...
    pub fn platform(&self) -> String {
        self.0.platform_name()
    }

    /// Compiles a program. Its arguments are not donated, whatever it says.
    ///
    /// # Errors
    /// [`Error::Xla`] if XLA rejects the module.
    pub fn compile(&self, program: &Program) -> Result<Executable> {
        let mut program = program.clone();
        program.module.input_output_alias = None;
        program.module.buffer_donor = None;
        let module =
            xla::HloModuleProto::parse_proto(&program.module.to_bytes(), true).map_err(during("to read the module"))?;
        let computation = xla::XlaComputation::from_proto(&module);
        let inner = self.0.compile(&computation).map_err(during("to compile the program"))?;
        Ok(Executable { inner, program })
    }
}

impl Executable {
    /// Runs the program: host arrays in, host arrays out.
    ///
    /// # Errors
    /// [`Error::ArgumentCount`], [`Error::ArgumentShape`] before anything runs; [`Error::Xla`] if the run
    /// fails; [`Error::ResultCount`], [`Error::Array`] if it returns something else than promised.
    pub fn run(&self, arguments: &[&Array]) -> Result<Vec<Array>> {
        self.check(arguments)?;
        let client = self.inner.client();
        let upload = |array: &&Array| {
            let shape = array.shape();
            client.buffer_from_host_raw_bytes(element_type(shape.dtype), array.bytes(), &shape.dims, None)
        };
        let buffers =
            arguments.iter().map(upload).collect::<xla::Result<Vec<_>>>().map_err(during("to upload an argument"))?;
        let outputs = self.inner.execute_b(&buffers).map_err(during("to run the program"))?;
        let outputs = outputs.into_iter().next().unwrap_or_default();
        let download = |buffer: &xla::PjRtBuffer| buffer.to_literal_sync();
        let mut literals =
            outputs.iter().map(download).collect::<xla::Result<Vec<_>>>().map_err(during("to download a result"))?;
        // Some versions of the bundle return the tuple whole, others its members.
        let whole =
            matches!(literals.as_slice(), [one] if one.primitive_type().is_ok_and(|t| t == xla::PrimitiveType::Tuple));
        if let (true, Some(tuple)) = (whole, literals.pop_if(|_| whole)) {
            literals = tuple.to_tuple().map_err(during("to take the results apart"))?;
        }
        let promised = &self.program.results;
        if literals.len() != promised.len() {
            return Err(Error::ResultCount {
                program: self.program.module.name.clone(),
                expected: promised.len(),
                got: literals.len(),
            });
        }
        literals.iter().zip(promised).map(|(literal, result)| to_array(literal, &result.shape)).collect()
    }

    fn check(&self, arguments: &[&Array]) -> Result<()> {
        let program = || self.program.module.name.clone();
        let expected = &self.program.arguments;
        if arguments.len() != expected.len() {
            return Err(Error::ArgumentCount { program: program(), expected: expected.len(), got: arguments.len() });
        }
        for (index, (array, argument)) in arguments.iter().zip(expected).enumerate() {
            if *array.shape() != argument.shape {
                return Err(Error::ArgumentShape {
                    program: program(),
                    index,
                    name: argument.name.clone(),
                    expected: argument.shape.clone(),
                    got: array.shape().clone(),
                });
            }
        }
        Ok(())
    }
}

fn to_array(literal: &xla::Literal, shape: &Shape) -> Result<Array> {
    // A literal of another size is refused by the copy.
    let mut bytes = vec![0; shape.bytes()];
    literal.copy_untyped_to(&mut bytes).map_err(during("to copy a result"))?;
    Ok(Array::from_bytes(shape.clone(), bytes)?)
}

fn element_type(dtype: DType) -> xla::ElementType {
    match dtype {
        DType::Pred => xla::ElementType::Pred,
        DType::U8 => xla::ElementType::U8,
        DType::S32 => xla::ElementType::S32,
        DType::U32 => xla::ElementType::U32,
        DType::U64 => xla::ElementType::U64,
        DType::BF16 => xla::ElementType::Bf16,
        DType::F32 => xla::ElementType::F32,
        DType::F64 => xla::ElementType::F64,
    }
}

//! The protos as descriptors: parsed, checked, and asked which of them become code.

use std::path::{Path, PathBuf};

use buffa::Message;
use buffa_codegen::generated::descriptor::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use protox::Compiler;

use crate::diagnose::Sources;
use crate::fault::{Error, Fault, Place};

/// Compiled protos.
#[derive(Debug)]
pub(crate) struct Schema {
    /// Every file, imports before those who import them.
    pub(crate) set: FileDescriptorSet,
    /// The names of the files that become code.
    pub(crate) generated: Vec<String>,
    /// Those that were read from disk.
    pub(crate) paths: Vec<PathBuf>,
}

/// Parses and checks the files and their imports.
pub(crate) fn load(roots: &[PathBuf], files: &[String]) -> Result<Schema, Error> {
    let sources = Sources::new(roots);
    if files.is_empty() {
        return Err(Error::Protos(vec![Fault::new("no .proto file was named")]));
    }
    let mut compiler = Compiler::new(roots).map_err(|error| Error::Unsupported(error.to_string()))?;
    compiler.include_imports(true).include_source_info(true);
    let mut faults = Vec::new();
    for name in files {
        match sources.resolve(name) {
            Some(path) => {
                if let Err(error) = compiler.open_file(&path) {
                    faults.extend(sources.faults(&error, &path, &compiler));
                }
            }
            None => faults.push(sources.missing(name)),
        }
    }
    // Two files may import the same faulty third.
    let mut distinct: Vec<Fault> = Vec::new();
    for fault in faults {
        if !distinct.contains(&fault) {
            distinct.push(fault);
        }
    }
    if !distinct.is_empty() {
        return Err(Error::Protos(distinct));
    }

    let paths = compiler.files().filter_map(|file| file.path().map(Path::to_path_buf)).collect();
    let bytes = compiler.encode_file_descriptor_set();
    // The limits that buffa has for messages from strangers are too low for large schemas.
    let set: FileDescriptorSet = buffa_codegen::tooling_decode_options()
        .map_err(Error::Unsupported)?
        .decode_from_slice(&bytes)
        .map_err(|error| Error::Unsupported(format!("the descriptors do not decode: {error}")))?;
    let mut schema = Schema { set, generated: Vec::new(), paths };
    schema.select(&sources)?;
    Ok(schema)
}

impl Schema {
    /// Chooses what becomes code: all but the well-known types and files of mere options.
    fn select(&mut self, sources: &Sources<'_>) -> Result<(), Error> {
        let mut faults = Vec::new();
        for file in &mut self.set.file {
            let name = file.name.clone().unwrap_or_default();
            if file.package.as_deref().is_some_and(|package| package.starts_with("google.protobuf")) {
                continue;
            }
            if file.syntax.as_deref() == Some("editions") {
                let place = sources.resolve(&name).map(Place::file);
                faults.push(Fault::new("editions are not supported").at(place));
            }
            if !(file.message_type.is_empty() && file.enum_type.is_empty() && file.service.is_empty()) {
                self.generated.push(name);
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Protos(faults)) }
    }

    /// The files that become code.
    pub(crate) fn generated(&self) -> impl Iterator<Item = &FileDescriptorProto> {
        let chosen = |file: &&FileDescriptorProto| {
            file.name.as_ref().is_some_and(|name| self.generated.contains(name))
        };
        self.set.file.iter().filter(chosen)
    }

    /// The descriptors without declarations of custom options, whose Rust form would need a crate
    /// more and that nobody reads at run time.
    pub(crate) fn without_extensions(&self) -> Vec<FileDescriptorProto> {
        fn strip(message: &mut DescriptorProto) {
            message.extension.clear();
            message.nested_type.iter_mut().for_each(strip);
        }
        let mut files = self.set.file.clone();
        for file in &mut files {
            file.extension.clear();
            file.message_type.iter_mut().for_each(strip);
        }
        files
    }

    /// The set as it is embedded for reflection: without comments and positions.
    pub(crate) fn embedded(&self) -> Vec<u8> {
        let mut set = self.set.clone();
        for file in &mut set.file {
            file.source_code_info = Default::default();
        }
        set.encode_to_vec()
    }
}

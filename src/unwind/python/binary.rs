//! stub
use super::{Layout, Version};
use crate::model::Svma;
use object::{Object, ObjectSymbol};
use std::ops::Range;
/// stub
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct PythonBinary {
    pub version: Version,
    pub runtime: Svma,
    pub code_type: Svma,
    pub eval_entry: Svma,
    pub eval: Vec<Range<u64>>,
}
/// stub
pub fn recognise(elf: &[u8]) -> Result<Option<PythonBinary>, String> {
    let Ok(file) = object::read::elf::ElfFile64::<object::Endianness>::parse(elf) else { return Ok(None) };
    let find = |name: &str| file.dynamic_symbols().find(|s| s.name() == Ok(name) && s.is_definition());
    let Some(runtime) = find("_PyRuntime") else { return Ok(None) };
    let code = find("PyCode_Type").ok_or("no PyCode_Type")?;
    let eval = find("_PyEval_EvalFrameDefault").ok_or("no eval")?;
    let index = crate::unwind::FdeIndex::parse(elf).map_err(|e| e.to_string())?;
    let range = index.function_range(elf, eval.address()).ok_or("no fde")?;
    let minor = if find("Py_Version").is_none() {
        if find("PyModule_AddObjectRef").is_some() {
            10
        } else if find("PyFrame_GetCode").is_some() {
            9
        } else {
            8
        }
    } else if find("PyErr_GetRaisedException").is_some() {
        12
    } else {
        11
    };
    Ok(Some(PythonBinary {
        version: Version { major: 3, minor, micro: 0 },
        runtime: Svma(runtime.address()),
        code_type: Svma(code.address()),
        eval_entry: Svma(eval.address()),
        eval: vec![range],
    }))
}
impl PythonBinary {
    /// stub
    pub fn layout(&self, _elf: &[u8]) -> Result<Layout, String> {
        Layout::of(self.version).copied().ok_or_else(|| "version".to_owned())
    }
}

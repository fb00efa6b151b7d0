//! Models of real size without their weights: configuration, names, shapes and memory plan, from sparse files in the layout of
//! the published ones.

use oc_engine::{Dtype, Engine, EngineOptions, MemoryPlan, ModelFiles};
use serde_json::{Map, Value, json};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Names and shapes.
type Tensors = Vec<(String, Vec<usize>)>;

/// Sizes of a model, as its paper or its `config.json` gives them.
struct Model {
    name: &'static str,
    config: Value,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    /// Whether queries, keys and values are one matrix under InternLM2's names.
    is_fused: bool,
    has_biases: bool,
    /// Parameters in 10^9, as published.
    billions: f64,
}

fn models() -> Vec<Model> {
    let base = Model {
        name: "llama-7b",
        config: json!({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}),
        hidden: 4096,
        inner: 11008,
        layers: 32,
        heads: 32,
        kv_heads: 32,
        vocab: 32000,
        is_fused: false,
        has_biases: false,
        billions: 6.74,
    };
    let internlm = |bias, context| {
        json!({"architectures": ["InternLMForCausalLM"], "bias": bias, "max_position_embeddings": context,
               "rotary": {"base": 10000, "type": "dynamic"}})
    };
    let internlm2 = json!({"architectures": ["InternLM2ForCausalLM"], "bias": false, "max_position_embeddings": 32768,
                           "rope_theta": 1000000, "rope_scaling": {"type": "dynamic", "factor": 2.0}});
    vec![
        Model {
            name: "internlm-7b",
            config: internlm(true, 2048),
            vocab: 103_168,
            has_biases: true,
            billions: 7.32,
            ..Model { config: Value::Null, ..base }
        },
        Model {
            name: "internlm-20b",
            config: internlm(false, 4096),
            hidden: 5120,
            inner: 13824,
            layers: 60,
            heads: 40,
            kv_heads: 40,
            vocab: 103_168,
            billions: 20.09,
            ..Model { config: Value::Null, ..base }
        },
        Model {
            name: "internlm2-7b",
            config: internlm2.clone(),
            inner: 14336,
            kv_heads: 8,
            vocab: 92544,
            is_fused: true,
            billions: 7.74,
            ..Model { config: Value::Null, ..base }
        },
        Model {
            name: "internlm2-20b",
            config: internlm2,
            hidden: 6144,
            inner: 16384,
            layers: 48,
            heads: 48,
            kv_heads: 8,
            vocab: 92544,
            is_fused: true,
            billions: 19.86,
            ..Model { config: Value::Null, ..base }
        },
        base,
    ]
}

impl Model {
    /// Names and shapes of all tensors, as published.
    fn tensors(&self) -> Tensors {
        let Self { hidden, inner, vocab, .. } = *self;
        let head_dim = hidden / self.heads;
        let (q, kv) = (self.heads * head_dim, self.kv_heads * head_dim);
        let layer: Vec<(&str, Vec<usize>)> = if self.is_fused {
            vec![
                ("attention_norm.weight", vec![hidden]),
                ("attention.wqkv.weight", vec![q + 2 * kv, hidden]),
                ("attention.wo.weight", vec![hidden, q]),
                ("ffn_norm.weight", vec![hidden]),
                ("feed_forward.w1.weight", vec![inner, hidden]),
                ("feed_forward.w3.weight", vec![inner, hidden]),
                ("feed_forward.w2.weight", vec![hidden, inner]),
            ]
        } else {
            let biases = [("q", q), ("k", kv), ("v", kv), ("o", hidden)];
            let biases = biases.iter().filter(|_| self.has_biases);
            let names =
                ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias", "self_attn.o_proj.bias"];
            let biases = biases.zip(names).map(|((_, rows), name)| (name, vec![*rows]));
            let matrices = [
                ("input_layernorm.weight", vec![hidden]),
                ("self_attn.q_proj.weight", vec![q, hidden]),
                ("self_attn.k_proj.weight", vec![kv, hidden]),
                ("self_attn.v_proj.weight", vec![kv, hidden]),
                ("self_attn.o_proj.weight", vec![hidden, q]),
                ("post_attention_layernorm.weight", vec![hidden]),
                ("mlp.gate_proj.weight", vec![inner, hidden]),
                ("mlp.up_proj.weight", vec![inner, hidden]),
                ("mlp.down_proj.weight", vec![hidden, inner]),
            ];
            matrices.into_iter().chain(biases).collect()
        };
        let (embedding, head) = if self.is_fused {
            ("model.tok_embeddings.weight", "output.weight")
        } else {
            ("model.embed_tokens.weight", "lm_head.weight")
        };
        let ends = [(embedding, vec![vocab, hidden]), ("model.norm.weight", vec![hidden]), (head, vec![vocab, hidden])];
        let in_layer =
            |i: usize| layer.iter().map(move |(name, shape)| (format!("model.layers.{i}.{name}"), shape.clone()));
        let ends = ends.into_iter().map(|(name, shape)| (name.to_owned(), shape));
        ends.chain((0..self.layers).flat_map(in_layer)).collect()
    }

    fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// The folder of this model in `dir`: real headers and an index, and holes where 16-bit numbers would be.
    fn write(&self, dir: &TempDir, edit: impl Fn(&mut Tensors)) -> PathBuf {
        let folder = dir.path().join(self.name);
        std::fs::create_dir(&folder).unwrap();
        let mut config = self.config.clone();
        let sizes = [
            ("hidden_size", self.hidden),
            ("intermediate_size", self.inner),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("vocab_size", self.vocab),
        ];
        sizes.iter().for_each(|(field, size)| config[*field] = json!(size));
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let mut tensors = self.tensors();
        edit(&mut tensors);
        let mut weight_map = Map::new();
        let shards = tensors.chunks(tensors.len().div_ceil(4));
        for (i, tensors) in shards.enumerate() {
            let file = format!("model-{:05}-of-00004.safetensors", i + 1);
            sparse(&folder.join(&file), tensors);
            weight_map.extend(tensors.iter().map(|(name, _)| (name.clone(), json!(file))));
        }
        let index = json!({"metadata": {}, "weight_map": weight_map});
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        folder
    }
}

/// A safetensors file that claims these tensors in bfloat16 and stores only its header.
fn sparse(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

fn plan(folder: &Path, dtype: Dtype) -> MemoryPlan {
    let files = ModelFiles::open(folder).unwrap();
    let options = EngineOptions { dtype: Some(dtype), threads: Some(1), ..EngineOptions::default() };
    Engine::plan(&files, &options).unwrap()
}

fn assert_within(found: usize, wanted: f64, what: &str) {
    assert!((found as f64 - wanted).abs() <= 0.01 * wanted, "{what}: {found}, expected {wanted}");
}

#[test]
fn memory_plans_are_right_to_one_percent() {
    for model in models() {
        let dir = tempfile::tempdir().unwrap();
        let folder = model.write(&dir, |_| {});
        let parameters = model.parameters() as f64;
        assert_within(model.parameters(), 1e9 * model.billions, model.name);
        let kv = (2 * model.layers * model.kv_heads * (model.hidden / model.heads)) as f64;
        // Bytes of a weight, and of a key or value. In f32, 16-bit weights stay as they are; in int8 they take 8.5 bits.
        for (dtype, weight, element) in [(Dtype::Bf16, 2.0, 2.0), (Dtype::F32, 2.0, 4.0), (Dtype::Int8, 8.5 / 8.0, 2.0)]
        {
            let what = format!("{} in {}", model.name, dtype.name());
            let plan = plan(&folder, dtype);
            assert_within(plan.weights, weight * parameters, &what);
            assert_within(plan.kv_cache, element * kv * plan.kv_tokens as f64, &what);
            assert!(plan.kv_tokens >= 32768, "{what}");
        }
    }
}

#[test]
fn what_is_wrong_is_found_before_anything_is_read() {
    let refused = |edit: &dyn Fn(&mut Tensors), wanted: &str| {
        let dir = tempfile::tempdir().unwrap();
        let model = models().into_iter().find(|model| model.name == "internlm2-20b").unwrap();
        let folder = model.write(&dir, edit);
        let error = ModelFiles::open(&folder).and_then(|files| Engine::plan(&files, &EngineOptions::default()));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(wanted), "found: {error}\nwanted: {wanted}");
    };
    let named = |name: &'static str| move |tensor: &&mut (String, Vec<usize>)| tensor.0 == name;
    refused(
        &|tensors| tensors.iter_mut().find(named("model.layers.47.feed_forward.w2.weight")).unwrap().1.reverse(),
        "mlp.down_proj.weight` has shape [16384, 6144], but the configuration needs [6144, 16384]",
    );
    refused(
        &|tensors| tensors.iter_mut().find(named("model.layers.5.attention.wqkv.weight")).unwrap().1[0] = 6144,
        "attention.wqkv.weight` has shape [6144, 6144], but the configuration needs [8192, 6144]",
    );
    refused(
        &|tensors| tensors.retain(|(name, _)| name != "model.layers.31.attention.wo.weight"),
        "tensor `model.layers.31.self_attn.o_proj.weight` is missing",
    );
    refused(
        &|tensors| tensors.push(("model.layers.48.ffn_norm.weight".into(), vec![6144])),
        "model.layers.48.ffn_norm",
    );
    refused(&|tensors| tensors.push(("model.layers.0.attention.wqkv.bias".into(), vec![8192])), "attention.wqkv.bias");
}

/// The plan is what loading allocates, for every committed checkpoint and dtype.
#[test]
fn plans_are_kept() {
    for name in oc_tests::CHECKPOINTS {
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
            let options = EngineOptions { dtype: Some(dtype), threads: Some(1), ..EngineOptions::default() };
            let path = oc_tests::checkpoint(name);
            let plan = Engine::plan(&ModelFiles::open(&path).unwrap(), &options).unwrap();
            assert_eq!(&plan, Engine::load(&path, options).unwrap().memory_plan(), "{name} in {}", dtype.name());
        }
    }
}

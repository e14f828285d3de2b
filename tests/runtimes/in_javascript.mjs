// Run the cases of a folder in a runtime from npm: node in_javascript.mjs onnxruntime-node FOLDER.
// A page imports the function alone. It gives the answers of in_python.py.

export async function answers(ort, cases, read) {
  const found = {};
  for (const { name, model, images } of cases) {
    try {
      const session = await ort.InferenceSession.create(await read(model));
      found[name] = [];
      for (const { file, shape } of images) {
        const input = new ort.Tensor('uint8', await read(file), shape);
        const { probabilities } = await session.run({ images: input }, ['probabilities']);
        found[name].push([...probabilities.data]);
      }
    } catch (error) {
      found[name] = String(error);
    }
  }
  return found;
}

if (typeof process === 'object') {
  const [runtime, folder] = process.argv.slice(2);
  const { readFile } = await import('node:fs/promises');
  const read = async (file) => new Uint8Array(await readFile(`${folder}/${file}`));
  const cases = JSON.parse(await readFile(`${folder}/cases.json`, 'utf8'));
  const ort = await import(runtime);
  console.log(JSON.stringify(await answers(ort.default ?? ort, cases, read)));
}

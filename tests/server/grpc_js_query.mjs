// Query a model by grpc-js, HTTP/2 in JavaScript: node grpc_js_query.mjs ADDRESS MODEL PROTO SHAPE IMAGES.BIN
// It prints the raw elements of the probabilities as JSON.
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import { load } from '@grpc/proto-loader';

const [address, model_name, proto, shape, file] = process.argv.slice(2);
const { inference } = grpc.loadPackageDefinition(await load(proto, { keepCase: true }));
const client = new inference.GRPCInferenceService(address, grpc.credentials.createInsecure());
const call = (name, request) => promisify(client[name].bind(client))(request);
const { live } = await call('ServerLive', {});
const answer = await call('ModelInfer', {
  model_name,
  inputs: [{ name: 'images', datatype: 'UINT8', shape: JSON.parse(shape) }],
  outputs: [{ name: 'probabilities' }],
  raw_input_contents: [await readFile(file)],
});
const raw = answer.raw_output_contents[0];
const probabilities = Array.from({ length: raw.length / 4 }, (_, i) => raw.readFloatLE(4 * i));
let refused = 0;
await call('ModelInfer', { model_name: 'none' }).catch((error) => (refused = error.code));
console.log(JSON.stringify({ live, probabilities, refused }));
client.close();

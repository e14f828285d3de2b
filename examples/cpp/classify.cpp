// Classify images: ./classify model.onnx photo.ppm ...
//
//   g++ -O2 -std=c++17 classify.cpp -I ORT/include -L ORT/lib -lonnxruntime -o classify
//
// ORT is an unpacked release of ONNX Runtime. Images are binary PPM, or PGM for models of grey
// images: `magick photo.jpg -auto-orient photo.ppm` makes one.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

std::vector<char> read(const char* path, int64_t channels, int64_t& width, int64_t& height) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int most = 0;
  file >> kind >> width >> height >> most;
  file.get();  // the line break before the pixels
  std::vector<char> pixels((std::istreambuf_iterator<char>(file)), {});
  if (kind != (channels == 3 ? "P6" : "P5") || most != 255 || int64_t(pixels.size()) != width * height * channels)
    throw std::runtime_error(std::string(path) + " is no binary " + (channels == 3 ? "PPM" : "PGM") + " file of 8 bits");
  return pixels;
}

// The strings of a JSON array; escapes stay as they are.
std::vector<std::string> strings(const std::string& json) {
  const std::regex string("\"((?:[^\"\\\\]|\\\\.)*)\"");
  std::vector<std::string> found;
  for (std::sregex_iterator each(json.begin(), json.end(), string), end; each != end; ++each) found.push_back((*each)[1]);
  return found;
}

int main(int count, char** arguments) try {
  if (count < 3) throw std::runtime_error("usage: classify model.onnx photo.ppm ...");
  Ort::Env env;
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, arguments[1], options);
  const int64_t channels = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[3];
  Ort::AllocatorWithDefaultOptions allocator;
  const auto json = session.GetModelMetadata().LookupCustomMetadataMapAllocated("metanas.labels", allocator);
  const auto labels = strings(json.get());
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const char *input = "images", *output = "probabilities";
  for (int i = 2; i < count; ++i) {
    int64_t width = 0, height = 0;
    auto pixels = read(arguments[i], channels, width, height);
    const int64_t shape[] = {1, height, width, channels};
    auto images = Ort::Value::CreateTensor(memory, pixels.data(), pixels.size(), shape, 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
    auto outputs = session.Run(Ort::RunOptions(), &input, &images, 1, &output, 1);
    const float* first = outputs[0].GetTensorData<float>();
    const float* best = std::max_element(first, first + outputs[0].GetTensorTypeAndShapeInfo().GetElementCount());
    std::printf("%s\t%s\t%.3f\n", arguments[i], labels.at(best - first).c_str(), *best);
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}

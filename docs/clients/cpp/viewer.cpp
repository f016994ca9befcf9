// Watches a live_restore daemon: one line of JSON per volume and per event.
//
//     g++ -std=c++17 -O2 viewer.cpp -lzmq -o viewer
//     ./viewer --data tcp://127.0.0.1:5556 --control tcp://127.0.0.1:5557

#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "live_restore.hpp"

using namespace live_restore;

// Into a line about a volume: the sum of its voxels, their extremes and where the brightest is.
template <class Voxel>
void measure(const Volume& volume, json& line) {
    const auto* voxels = reinterpret_cast<const Voxel*>(volume.voxels.data());
    const std::size_t size = volume.voxels.size() / sizeof(Voxel);
    std::conditional_t<std::is_floating_point_v<Voxel>, double, std::uint64_t> sum = 0;
    std::size_t darkest = 0, brightest = 0;
    for (std::size_t i = 0; i < size; ++i) {
        sum += voxels[i];
        if (voxels[i] < voxels[darkest]) darkest = i;
        if (voxels[i] > voxels[brightest]) brightest = i;
    }
    const auto [nz, ny, nx] = volume.shape;
    line["sum"] = sum;
    line["min"] = voxels[darkest];
    line["max"] = voxels[brightest];
    line["brightest"] = {brightest / (ny * nx), brightest / nx % ny, brightest % nx};
}

// The three keys in a file of live-restore keys: lines as name = "key".
std::map<std::string, std::string> read_keys(const std::string& path) {
    std::ifstream file(path);
    std::map<std::string, std::string> keys;
    for (std::string line; std::getline(file, line);) {
        const auto end = line.find_first_of(" ="), first = line.find('"'), last = line.rfind('"');
        if (end < first && first < last) keys[line.substr(0, end)] = line.substr(first + 1, last - first - 1);
    }
    for (const char* name : {"server", "public", "secret"})
        if (!keys.count(name)) throw std::runtime_error(path + ": " + name + " is missing");
    return keys;
}

// The command line; `count` is how many volumes to end after.
Options read_options(int argc, char** argv, long& count) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        if (name == "--latest") {
            options.latest_only = true;
            continue;
        }
        if (i + 1 == argc) throw std::runtime_error(name + ": unknown, or its value is missing");
        const std::string value = argv[++i];
        if (name == "--data") options.data = value;
        else if (name == "--control") options.control = value;
        else if (name == "--kind") options.kind = value;
        else if (name == "--keys") options.keys = read_keys(value);
        else if (name == "--count") count = std::stol(value);
        else throw std::runtime_error(name + ": unknown");
    }
    return options;
}

int main(int argc, char** argv) try {
    long left = -1;
    const Options options = read_options(argc, argv, left);
    LiveRestore client(options, [&](const json& event, const Volume* volume) {
        if (left == 0) return;
        json line = event;
        if (volume) {
            if (volume->type == "uint8") measure<std::uint8_t>(*volume, line);
            if (volume->type == "uint16") measure<std::uint16_t>(*volume, line);
            if (volume->type == "float32") measure<float>(*volume, line);
            --left;
        }
        std::cout << line.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
    });
    while (left != 0) client.step();
} catch (const std::exception& error) {
    std::cerr << "can't connect: " << error.what() << std::endl;
    return 2;
}
